/**
 * The SQLSTATE of a database's error as PostgreSQL has it, or '' for none. MySQL has one state for most refusals, and
 * SQLite none: there the number or the text of the error tells which it is.
 */
export function stateOf(error: unknown): string {
  if (!(error instanceof Error)) return ''
  const { code, errno } = error as { code?: unknown; errno?: unknown }
  if (typeof errno === 'number' && 'sqlState' in error) return mysqlStates.get(errno) ?? ''
  const sqlite = sqliteStates.find(([text]) => text.test(error.message))
  if (sqlite && !isState(code)) return sqlite[1]
  return code === undefined ? '' : String(code)
}

function isState(code: unknown): boolean {
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code)
}

// By the numbers of MySQL and MariaDB, which agree.
const mysqlStates = new Map(
  Object.entries({
    '22001': [1406],
    '22003': [1264, 1690],
    '22007': [1292, 1366, 1367, 1265, 3988],
    '22032': [3140, 3141],
    '23502': [1048, 1364],
    '23503': [1217, 1451, 1452, 1216],
    '23505': [1062, 1586],
    '23514': [3819, 4025],
    '25006': [1290, 1792, 1836],
    '28000': [1044, 1045, 1698],
    '3D000': [1046, 1049],
    '40001': [1020],
    '40P01': [1213],
    '42501': [1142, 1143, 1227],
    '42P01': [1146],
    '42703': [1054],
    '53100': [1021, 1114],
    '53200': [1037, 1038, 1041],
    '53300': [1040, 1203, 1226],
    '54000': [1118, 1153],
    '55P03': [1205, 3572],
    '57014': [1317, 1969, 3024],
    '57P01': [1053, 1077, 1079, 1927],
  }).flatMap(([state, numbers]) => numbers.map((number) => [number, state] as const)),
)

// The drivers of SQLite give codes of their own, and all of them its text.
const sqliteStates: [RegExp, string][] = [
  [/UNIQUE constraint failed/, '23505'],
  [/FOREIGN KEY constraint failed/, '23503'],
  [/NOT NULL constraint failed/, '23502'],
  [/CHECK constraint failed/, '23514'],
  [/datatype mismatch|string or blob too big/, '22000'],
  [/database (?:table )?is locked/, '40001'],
  [/readonly database/, '25006'],
  [/no such table/, '42P01'],
  [/no such column|has no column named/, '42703'],
  [/database or disk is full/, '53100'],
  [/disk I\/O error|unable to open database|malformed|not a database/, '58030'],
]
