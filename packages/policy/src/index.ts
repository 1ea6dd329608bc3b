export { parsePolicy, POLICY_FIELDS, type ParsedPolicy } from './parse.ts'
