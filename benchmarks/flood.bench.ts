import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import type { Counts, FloodOrder, FloodRole } from './flood-child.ts'
import type { Measurement } from './measure.ts'

const CHILD = path.join(import.meta.dirname, 'flood-child.ts')
const SESSION_MBIT = 200
const INITIATIONS_PER_SECOND = 10_000
const QUIET_MS = 1_500
const FLOOD_MS = 5_000
/** What is on its way when the sender stops. */
const SETTLE_MS = 300
/** Of what was asked for, as much must be sent, and as much of the session must arrive without a flood: else the machine is too busy to tell anything. */
const ENOUGH = 0.97
const TRIES = 3

/**
 * How much of a session paced at 200 Mbit/s arrives while 10,000 initiations a second with a right mac1 come from ever other sources? Real
 * sockets on loopback, each role a process of its own; first without the flood, to see that the machine can do it at all.
 */
export function measurements(): readonly Measurement[] {
  return [{ name: 'flood/session-200-mbit', unit: 'of the packets sent', measure: firstAnswer }]
}

async function firstAnswer(): Promise<number | undefined> {
  for (let tries = 1; ; tries += 1) {
    const share = await floodShare()
    if (share !== undefined || tries === TRIES) return share
  }
}

/** `undefined` when the machine is too busy. */
async function floodShare(): Promise<number | undefined> {
  const bob = new Role('bob', [])
  const roles = [bob]
  try {
    const port = String(Number(await bob.started))
    const alice = new Role('alice', [port])
    const mallory = new Role('mallory', [port])
    roles.push(alice, mallory)
    await Promise.all([alice.started, mallory.started])
    const round = async (ms: number, flooded: boolean): Promise<Round> => {
      const before = await bob.ask({ type: 'count' })
      const [sent, flood] = await Promise.all([alice.ask({ type: 'pace', mbit: SESSION_MBIT, ms }), flooded ? mallory.ask({ type: 'flood', perSecond: INITIATIONS_PER_SECOND, ms }) : undefined])
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS))
      const after = await bob.ask({ type: 'count' })
      const isEnough = sent.done >= ENOUGH * sent.wanted && (flood === undefined || flood.done >= ENOUGH * flood.wanted)
      return { share: (after.done - before.done) / sent.done, isEnough, told: `${sent.done} of ${sent.wanted} packets, ${flood?.done ?? 0} initiations; bob ${after.told}` }
    }
    const quiet = await round(QUIET_MS, false)
    const flooded = await round(FLOOD_MS, true)
    process.stderr.write(`flood: ${percent(quiet)} arrived without, ${percent(flooded)} with (${flooded.told})\n`)
    if (quiet.share >= ENOUGH && quiet.isEnough && flooded.isEnough) return flooded.share
    process.stderr.write('flood: this machine is too busy to tell anything\n')
    return undefined
  } finally {
    for (const role of roles) await role.stop()
  }
}

interface Round {
  /** What arrived of what was sent. */
  readonly share: number
  /** Whether as much was sent as was asked for. */
  readonly isEnough: boolean
  readonly told: string
}

function percent({ share }: Round): string {
  return `${(100 * share).toFixed(1)} %`
}

/** A process that does as it is told. */
class Role {
  /** Its first word. */
  readonly started: Promise<unknown>
  readonly #child: ChildProcess

  constructor(role: FloodRole, args: readonly string[]) {
    this.#child = fork(CHILD, [role, ...args])
    this.started = this.#word()
  }

  async ask(order: FloodOrder): Promise<Counts> {
    const word = this.#word()
    this.#child.send(order)
    return (await word) as Counts
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = once(this.#child, 'exit')
    this.#child.kill()
    await gone
  }

  #word(): Promise<unknown> {
    return new Promise((resolve, reject) => {
      this.#child.once('message', resolve)
      this.#child.once('exit', (status) => reject(new Error(`a process of the flood ended with status ${String(status)}`)))
    })
  }
}
