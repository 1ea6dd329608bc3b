import { policySchema } from '@meshwright/policy'
import type { Outcome } from './outcome.ts'
import { UsageError } from './usage.ts'

/** `schema`: a JSON schema of policies. */
export async function schema(words: readonly string[]): Promise<Outcome> {
  if (words.length > 0) throw new UsageError('schema takes no FILE')
  const json = policySchema()
  return { status: 0, lines: [JSON.stringify(json, undefined, 2)], json }
}
