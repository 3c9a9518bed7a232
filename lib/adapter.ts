export { type Judgement, judgeToken, type TokenState } from './core/refresh-rule.ts'
export { type Faults, resilient } from './core/resilient.ts'
export { isValidId, storable, storableUser } from './core/storable.ts'
