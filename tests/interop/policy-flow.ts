import { existsSync } from 'node:fs'
import { test } from 'vitest'
import { BIN, peerName, programFile } from './lab-flow.ts'

/** A flow with one program that needs no network: skipped with the reason where it is not installed, failed where REQUIRE_INTEROP=1. */
export function ownProgramFlow(flow: string, program: string, body: () => Promise<void> | void, timeoutMs: number = 600_000): void {
  const reason = BIN === '' ? 'MESHWRIGHT_INTEROP_BIN is not set' : existsSync(programFile(program)) ? undefined : `not installed: ${program}`
  test(
    `${flow} [${peerName(program)}]`,
    async (context) => {
      if (reason !== undefined && process.env['REQUIRE_INTEROP'] === '1') throw new Error(reason)
      if (reason !== undefined) context.skip(reason)
      await body()
    },
    timeoutMs,
  )
}
