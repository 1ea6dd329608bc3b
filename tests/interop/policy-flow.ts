import { existsSync } from 'node:fs'
import { test } from 'vitest'
import { BIN, peerName, programFile } from './lab-flow.ts'

const TIMEOUT_MS = 900_000

/**
 * A flow with one program that needs no network: skipped with the reason where it is not installed, failed where REQUIRE_INTEROP=1.
 * `missing` is another reason, which fails nothing.
 */
export function ownProgramFlow(flow: string, program: string, body: () => Promise<void> | void, missing?: string): void {
  const reason = missing ?? (BIN === '' ? 'MESHWRIGHT_INTEROP_BIN is not set' : existsSync(programFile(program)) ? undefined : `not installed: ${program}`)
  test(
    `${flow} [${peerName(program)}]`,
    async (context) => {
      if (reason !== undefined && reason !== missing && process.env['REQUIRE_INTEROP'] === '1') throw new Error(reason)
      if (reason !== undefined) context.skip(reason)
      await body()
    },
    TIMEOUT_MS,
  )
}
