import { setFlagsFromString } from 'node:v8'

/** Bytes of bytecode that a function runs between two looks at whether it is to be optimized. V8 itself: 66 KB, in other versions 132 or 144. */
const BUDGET_BYTES = 13_200
/**
 * How much of what a function calls may become part of it, in bytes of bytecode: of one callee, of all by their share, of all together, and of
 * callees that are taken whatever their share. V8 itself: 460, 920, 4,600 and 27.
 */
const INLINING = { 'max-inlined-bytecode-size': 1_500, 'max-inlined-bytecode-size-cumulative': 6_000, 'max-inlined-bytecode-size-absolute': 20_000, 'max-inlined-bytecode-size-small': 80 } as const
/** What a user has chosen stays. */
const CHOSEN = /--(?:interrupt[-_]budget|max[-_]inlined[-_]bytecode[-_]size)\b/

/** Where options of Node stand. */
export interface NodeOptions {
  readonly execArgv: readonly string[]
  /** NODE_OPTIONS */
  readonly environment: string | undefined
}

const own = (): NodeOptions => ({ execArgv: process.execArgv, environment: process.env['NODE_OPTIONS'] })

/**
 * Has V8 optimize functions after a fifth of the work that it waits for by itself (66 KB), or less. A lane does much work in few functions, or, on an idle
 * tunnel, very little in all of them: a ping each 10 ms runs the small ones for minutes before they would be optimized, and whenever traffic
 * of another kind comes (rows of TCP, then single packets) those that had been optimized for the first begin anew. Until then a packet costs
 * half as much again.
 *
 * And has it put the way of a packet into few large pieces of code in the place of many small ones: what an idle tunnel does runs with cold
 * caches, and then the number of places that it is read from is what costs (an idle ping takes a seventh less).
 *
 * Nothing else changes by it; all of it is in force in the whole process, since V8 knows no smaller one.
 * @returns whether it is in force; not where the user has chosen
 */
export function optimizeSooner(options: NodeOptions = own()): boolean {
  if (CHOSEN.test([...options.execArgv, options.environment ?? ''].join(' '))) return false
  setFlagsFromString(`--interrupt-budget=${BUDGET_BYTES}`)
  for (const [name, bytes] of Object.entries(INLINING)) setFlagsFromString(`--${name}=${bytes}`)
  return true
}
