import { existsSync } from 'node:fs'
import path from 'node:path'
import { test } from 'vitest'
import { PROGRAMS } from './programs.ts'
import { interfaceAddress } from './lab-process.ts'

/** The folder with the real programs; '' where there is none. */
export const BIN: string = process.env['MESHWRIGHT_INTEROP_BIN'] ?? ''

const REQUIRED = process.env['REQUIRE_INTEROP'] === '1'

/** `tailscaled@1.102.5`: how a program is called in the matrix. */
export function peerName(name: string): string {
  const version = PROGRAMS.find((program) => program.name === name)?.version.replace(/^v/, '') ?? 'unknown'
  return `${name}@${version}`
}

/** Why flows with these programs cannot run here; `undefined` when they can. */
export function whyNot(programs: readonly string[]): string | undefined {
  if (BIN === '') return 'MESHWRIGHT_INTEROP_BIN is not set'
  const missing = programs.filter((program) => !existsSync(path.join(BIN, program)))
  if (missing.length > 0) return `not installed: ${missing.join(', ')}`
  // Real nodes take no loopback address for a direct path.
  if (interfaceAddress() === undefined) return 'this computer has no address besides loopback'
  return undefined
}

/** Makes the tests of a suite: `flow('login by URL', ...)` is the cell of that name in the matrix. */
export function flows(peer: string, programs: readonly string[]): (flow: string, body: () => Promise<void>, timeoutMs?: number) => void {
  const reason = whyNot(programs)
  return (flow, body, timeoutMs = 120_000) => {
    test(
      `${flow} [${peer}]`,
      async (context) => {
        if (reason !== undefined && REQUIRED) throw new Error(reason)
        if (reason !== undefined) {
          // The reporter leaves out the reason itself.
          Object.assign(context.task.meta, { skipReason: reason })
          context.skip(reason)
        }
        await body()
      },
      timeoutMs,
    )
  }
}

/** The file of a program: of the version that is meant when nobody says which, or of that version: `programFile('tailscaled', '1.80.3')`. */
export function programFile(name: string, version?: string): string {
  return path.join(BIN, version === undefined ? name : `${name}@${version}`)
}
