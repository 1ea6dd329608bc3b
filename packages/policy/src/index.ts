export type { Affected } from './affected.ts'
export { parsePolicy, POLICY_FIELDS, type ParsedPolicy } from './parse.ts'
export {
  type CompileOptions,
  compilePolicy,
  CompiledPolicy,
  isPolicyError,
  type OwnRoutes,
  PolicyError,
  type PolicyErrorCode,
  type PolicyUpdate,
} from './compiled.ts'
export type { Diagnostic, DiagnosticCode, Located, Place, Repair } from './diagnostics.ts'
export type { Policy, Statement, SshRule, PolicyTest, SshTest, PolicySettings } from './policy.ts'
export type { TailnetChange, TailnetNode, TailnetService, TailnetUser, TailnetView, UserRole } from './tailnet.ts'
export type { NodeAttributeValue, PostureValue } from './posture.ts'
export type { PeerView } from './visibility.ts'
export type { SshActionView, SshPrincipalView, SshRuleView } from './ssh.ts'
export type { CapabilityMap } from './attributes.ts'
export { checkPolicy } from './check.ts'
export { runPolicyTests, type TestFailure, type TestResult } from './policy-tests.ts'
export { addressesNamed, type Contribution, explainAccess, type Explanation } from './explain.ts'
export type { Involved, NamedPlace } from './meaning.ts'
export type { Lack, NearMiss } from './near-miss.ts'
export type { SshAccess } from './ssh-access.ts'
export { type Untested, untestedStatements } from './coverage.ts'
export { protocolName } from './protocol-name.ts'
export type { Connection } from './reach.ts'
export { type AccessChange, diffAccess } from './diff.ts'
export { type JsonSchema, policySchema } from './schema.ts'
