// All rows, in the order of the table. A row has `measure(setup)`, which returns `{ figure, met }` or several of them.
import { bootRows } from './boot.js'
import { growthRows } from './growth.js'
import { hashingRows } from './hashing.js'
import { mailRequestRows, mailWorkerRows } from './mail.js'
import { soakRows } from './soak.js'
import { hugeStormRows, stormRows } from './storms.js'
import { tokenRows } from './tokens.js'

export function rowsOf({ soak }) {
  if (soak) return soakRows
  return [
    ...hashingRows,
    ...tokenRows,
    ...stormRows,
    ...hugeStormRows,
    ...mailWorkerRows,
    ...bootRows,
    ...growthRows,
    ...mailRequestRows,
  ]
}
