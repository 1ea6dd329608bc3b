import { existsSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { runSystem } from './system-command.ts'
import { TunError } from './tun-linux.ts'

/** The mark of packets that a node itself sends, in the bits of {@link MARK_MASK}: for them the mesh's routes do not exist. */
export const OUTSIDE_MARK = 0x90000
const MARK_MASK = 0xff0000
/** The table of the mesh's routes. */
const TABLE = '53'
/** Preferences of our rules, before the system's own (32766 and 32767). */
const RULES: readonly { readonly preference: string; readonly words: readonly string[] }[] = [
  { preference: '5310', words: ['fwmark', `${hex(OUTSIDE_MARK)}/${hex(MARK_MASK)}`, 'lookup', 'main'] },
  { preference: '5330', words: ['fwmark', `${hex(OUTSIDE_MARK)}/${hex(MARK_MASK)}`, 'lookup', 'default'] },
  { preference: '5350', words: ['fwmark', `${hex(OUTSIDE_MARK)}/${hex(MARK_MASK)}`, 'unreachable'] },
  { preference: '5370', words: ['lookup', TABLE] },
]
/** More copies of a rule than any crash leaves behind. */
const MAX_COPIES = 16

/** How often a device that is in the way is looked at again. */
const LOOKS = 10
const LOOK_AGAIN_MS = 200

/** Where packets to a prefix go: into the device, nowhere, or to where the system's other tables say. */
export type RouteKind = 'device' | 'blackhole' | 'throw'

/** Routes by prefix text (`10.0.0.0/8`, `0.0.0.0/0`, `::/0`). */
export type RoutePlan = ReadonlyMap<string, RouteKind>

/**
 * The routes of the mesh in a table of their own, which rules put before the system's: a default route there takes what the system's own
 * default route took before, and vanishes without a trace. Marked packets pass by (ip-rule(8)).
 */
export class SystemRoutes {
  readonly #device: string
  readonly #onProblem: (line: string) => void
  #present: RoutePlan = new Map()

  constructor(device: string, onProblem: (line: string) => void) {
    this.#device = device
    this.#onProblem = onProblem
  }

  /** Sets the rules. What a killed process left is taken away before. */
  async open(): Promise<void> {
    await removeRoutes()
    for (const family of families()) {
      for (const { preference, words } of RULES) await this.#run([family, 'rule', 'add', 'pref', preference, ...words])
    }
  }

  /** Makes the table what the plan says. New routes come before old ones go, so that nothing slips past between. */
  async apply(plan: RoutePlan): Promise<void> {
    for (const [prefix, kind] of plan) {
      if (this.#present.get(prefix) === kind || !families().includes(family(prefix))) continue
      await this.#run([family(prefix), 'route', 'replace', ...(kind === 'device' ? [prefix, 'dev', this.#device] : [kind, prefix]), 'table', TABLE])
    }
    for (const prefix of this.#present.keys()) if (!plan.has(prefix)) await this.#run([family(prefix), 'route', 'del', prefix, 'table', TABLE])
    this.#present = plan
  }

  /** Takes rules and routes away. */
  async close(): Promise<void> {
    await removeRoutes()
  }

  async #run(words: readonly string[]): Promise<void> {
    await runSystem('ip', words).catch((error: unknown) => this.#onProblem(error instanceof Error ? error.message : String(error)))
  }
}

/**
 * Refuses to touch the rules while a node that lives has its routes there: they are one set for all of a network, and it would be cut off
 * without a word. The kernel takes routes back with their device, and that with its process, so that nothing killed is ever taken for alive.
 * @throws TunError (the promise rejects)
 */
export async function refuseWhileInForce(): Promise<void> {
  let device: string | undefined
  for (let looks = 0; looks < LOOKS; looks += 1) {
    device = await deviceInForce()
    if (device === undefined) return
    await pause(LOOK_AGAIN_MS) // it may be ending just now
  }
  throw new TunError('TUN_ROUTES_TAKEN', `another node has its routes here already, by the device ${device ?? ''}`, { remedy: 'One node with a device in a network: stop that one first, run this one in a network namespace of its own, or without a device.' })
}

async function deviceInForce(): Promise<string | undefined> {
  for (const family of families()) {
    const shown = await runSystem('ip', [family, 'route', 'show', 'table', TABLE]).catch(() => '') // no such table yet
    for (const [, device] of shown.matchAll(/ dev (\S+)/g)) if (device !== 'lo') return device // what leads nowhere stands at lo
  }
  return undefined
}

/** Takes away all rules and routes of this module, whoever set them. */
export async function removeRoutes(): Promise<void> {
  const gone = (words: readonly string[]): Promise<boolean> => runSystem('ip', words).then(() => true, () => false) // none left is the aim
  for (const family of families()) {
    for (const { preference } of RULES) for (let copies = 0; copies < MAX_COPIES && (await gone([family, 'rule', 'del', 'pref', preference])); copies += 1);
    await gone([family, 'route', 'flush', 'table', TABLE])
  }
}

/** The families that the system has, as words of `ip`. */
export function families(): readonly string[] {
  return existsSync('/proc/sys/net/ipv6') ? ['-4', '-6'] : ['-4']
}

function family(prefix: string): string {
  return prefix.includes(':') ? '-6' : '-4'
}

function hex(value: number): string {
  return `0x${value.toString(16)}`
}
