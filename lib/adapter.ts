export { type Judgement, judgeToken, type TokenState } from './core/refresh-rule.ts'
export { isValidId, storable, storableUser } from './core/storable.ts'
