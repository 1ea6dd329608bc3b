import type { UnixMillis } from '@meshwright/core'
import { compilePolicy } from './compiled.ts'
import type { Diagnostic } from './diagnostics.ts'
import type { Policy } from './policy.ts'
import { foreignDomains, runPolicyTests } from './policy-tests.ts'
import type { TailnetView } from './tailnet.ts'

/** What only a tailnet can show to be wrong with a policy: domains that are not its own, and failed tests. Nothing: it may be taken. */
export function checkPolicy(policy: Policy, tailnet: TailnetView, wallNow?: UnixMillis): readonly Diagnostic[] {
  const compiled = compilePolicy(policy, tailnet)
  const domains = foreignDomains(compiled.engineAt(wallNow)).map(
    ({ at, message }): Diagnostic => ({ ...at, code: 'POLICY_DOMAIN', message }),
  )
  const failed = runPolicyTests(compiled, wallNow).filter(({ passed }) => !passed)
  const tests = failed.map(
    ({ at, failures }): Diagnostic => ({
      ...at,
      code: 'POLICY_TEST_FAILED',
      message: 'test(s) failed',
      remedy: `${failures.map(({ message }) => message).join('; ')}.`,
    }),
  )
  return [...domains, ...tests]
}
