import type { MachinePublicKey } from '@meshwright/crypto'
import { fetchControlKey } from '@meshwright/runtime-node/control'
import { LightClient } from './light-client.ts'
import { loadPolicy, type PolicyKind } from './policies.ts'
import { pause, until } from './process.ts'
import { type LoadServer, type ServerKind, startServer } from './servers.ts'

/** What one server did under one policy. Times in seconds; `undefined`: not within the limit, or not asked. */
export interface ControlFigures {
  readonly server: ServerKind
  readonly policy: PolicyKind
  readonly clients: number
  /** All connected, registered and told of all their peers. */
  readonly joinSeconds: number | undefined
  /** CPU seconds of the server until it was quiet again. */
  readonly joinCpu: number | undefined
  /** Until neither frames nor CPU time. */
  readonly settleSeconds: number | undefined
  readonly endpointP50: number | undefined
  readonly endpointP99: number | undefined
  readonly addedP99: number | undefined
  /** Bytes of map frames that each client was sent for a node added, all told. */
  readonly addedBytes: number | undefined
  readonly reconnectSeconds: number | undefined
  readonly reconnectCpu: number | undefined
  readonly peakRssMegabytes: number
}

/** How much is asked. */
export interface ControlQuestion {
  readonly server: ServerKind
  readonly policy: PolicyKind
  readonly clients: number
  /** Only joining and reconnecting: for crowds. */
  readonly short: boolean
  readonly tell: (line: string) => void
}

const JOINS_AT_ONCE = 64
const JOIN_LIMIT_MS = 60_000
const RECONNECT_LIMIT_MS = 60_000
const QUIET_MS = 2_000
/** Of a core, while nothing is going on: headscale's own housekeeping passes for quiet. */
const QUIET_SHARE = 0.1
const ENDPOINT_CHANGES = 30
const NODES_ADDED = 10
const SEEN_LIMIT_MS = 10_000

/** Measures one server under one policy. */
export async function measureControl(question: ControlQuestion): Promise<ControlFigures> {
  const server = await startServer(question.server, loadPolicy(question.policy))
  const crowd = new Crowd(server, question)
  try {
    return await crowd.measure()
  } finally {
    crowd.close()
    await server.stop()
  }
}

/** Waits for a text in the frames of some clients. */
interface Watch {
  readonly text: string
  readonly waiting: Set<LightClient>
  readonly seenAt: number[]
}

class Crowd {
  readonly #server: LoadServer
  readonly #question: ControlQuestion
  readonly #policy: ReturnType<typeof loadPolicy>
  readonly #clients: LightClient[] = []
  #lastFrame = 0
  #watch: Watch | undefined
  #key: MachinePublicKey | undefined
  #lost = 0

  constructor(server: LoadServer, question: ControlQuestion) {
    this.#server = server
    this.#question = question
    this.#policy = loadPolicy(question.policy)
  }

  async measure(): Promise<ControlFigures> {
    const { server, policy, clients, short, tell } = this.#question
    const url = this.#server.url
    this.#key = await fetchControlKey({ url })
    for (let i = 0; i < clients; i += 1) this.#clients.push(this.#newClient(i))

    const join = await this.#storm(JOIN_LIMIT_MS, (client) => this.#join(client))
    tell(`joined in ${seconds(join.complete)}, quiet after ${seconds(join.quiet)}, ${seconds(join.cpu)} CPU`)
    const changes = short ? undefined : await this.#endpointChanges()
    if (changes !== undefined) tell(`endpoint change seen: p50 ${seconds(changes.p50)}, p99 ${seconds(changes.p99)}`)
    const added = short ? undefined : await this.#nodesAdded()
    if (added !== undefined) tell(`node added: p99 ${seconds(added.p99)}, ${Math.round(added.bytes)} bytes a client`)
    const reconnect = await this.#reconnect()
    tell(`reconnected in ${seconds(reconnect.complete)}, quiet after ${seconds(reconnect.quiet)}, ${seconds(reconnect.cpu)} CPU`)
    return {
      server,
      policy,
      clients,
      joinSeconds: join.complete,
      joinCpu: join.cpu,
      settleSeconds: join.quiet,
      endpointP50: changes?.p50,
      endpointP99: changes?.p99,
      addedP99: added?.p99,
      addedBytes: added?.bytes,
      reconnectSeconds: reconnect.complete,
      reconnectCpu: reconnect.cpu,
      peakRssMegabytes: Math.round(this.#server.process.peakRssBytes / 1_048_576),
    }
  }

  close(): void {
    for (const client of this.#clients) client.drop()
  }

  #newClient(index: number): LightClient {
    return new LightClient(index, {
      frame: (client, text) => {
        this.#lastFrame = performance.now()
        const watch = this.#watch
        if (watch === undefined || !watch.waiting.has(client) || !text.includes(watch.text)) return
        watch.waiting.delete(client)
        watch.seenAt.push(this.#lastFrame)
      },
      lost: (client) => {
        // As real clients do: at once, again and again.
        this.#lost += 1
        if (this.#key !== undefined && this.#lost < 50 * this.#clients.length) client.reconnect(this.#server.url, this.#key).catch(() => undefined)
      },
    })
  }

  async #join(client: LightClient): Promise<void> {
    if (this.#key === undefined) return
    await client.join(this.#server.url, this.#key, this.#server.authKey(client.index))
    await client.poll()
  }

  async #reconnect(): Promise<Storm> {
    for (const client of this.#clients) client.drop()
    await pause(500) // the server has noticed, and no grace time is over
    for (const client of this.#clients) client.peers.clear()
    return this.#storm(RECONNECT_LIMIT_MS, async (client) => {
      if (this.#key !== undefined) await client.reconnect(this.#server.url, this.#key)
    })
  }

  /** All clients at once; how long until all know all their peers, and until the server is quiet. */
  async #storm(limitMs: number, act: (client: LightClient) => Promise<void>): Promise<Storm> {
    const begun = performance.now()
    const cpu = this.#server.process.cpuSeconds
    const queue = [...this.#clients]
    const workers = Array.from({ length: JOINS_AT_ONCE }, async () => {
      for (let client = queue.shift(); client !== undefined; client = queue.shift()) await act(client)
    })
    const failed = Promise.all(workers).then(
      () => undefined,
      (error: unknown) => error,
    )
    const expected = this.#clients.map((client) => this.#clients.filter((other) => other !== client && this.#sees(client, other)).length)
    // Who sees whom is checked by numbers: the identities of the others are the server's.
    const completeMs = await until(() => queue.length === 0 && this.#clients.every((client, i) => client.frames > 0 && client.peers.size === expected[i]), limitMs)
    const quietMs = completeMs === undefined ? undefined : await this.#quiet(begun, limitMs)
    const spent = this.#server.process.cpuSeconds - cpu
    const error = completeMs === undefined ? undefined : await failed
    if (error !== undefined) throw error
    if (completeMs === undefined) {
      const missing = this.#clients.filter((client, i) => client.peers.size !== expected[i]).length
      this.#question.tell(`${missing} of ${this.#clients.length} clients do not know all their peers after ${limitMs / 1000} s (${spent.toFixed(1)} s of CPU so far)`)
    }
    return { complete: inSeconds(completeMs), quiet: inSeconds(quietMs), cpu: quietMs === undefined ? undefined : spent }
  }

  /** Until two seconds without a frame and without work; gives when they began, counted from `begun`. */
  async #quiet(begun: number, limitMs: number): Promise<number | undefined> {
    let from = performance.now()
    let cpu = this.#server.process.cpuSeconds
    while (performance.now() - begun < limitMs + QUIET_MS) {
      await pause(100)
      const now = performance.now()
      const busy = (this.#server.process.cpuSeconds - cpu) / ((now - from) / 1000) > QUIET_SHARE && now - from > 300
      if (busy || this.#lastFrame > from) {
        from = now
        cpu = this.#server.process.cpuSeconds
      } else if (now - from >= QUIET_MS) return from - begun
    }
    return undefined
  }

  async #endpointChanges(): Promise<{ readonly p50: number | undefined; readonly p99: number | undefined }> {
    const times: number[] = []
    for (let i = 0; i < ENDPOINT_CHANGES; i += 1) {
      const who = this.#clients[(i * 37) % this.#clients.length]
      if (who === undefined) continue
      const text = `198.51.100.${i + 1}:${20_000 + i}`
      times.push(...(await this.#seen(text, who, this.#clients, () => who.update([text]))))
    }
    return { p50: quantile(times, 0.5), p99: quantile(times, 0.99) }
  }

  async #nodesAdded(): Promise<{ readonly p99: number | undefined; readonly bytes: number }> {
    const times: number[] = []
    const old = [...this.#clients]
    await this.#quiet(performance.now(), SEEN_LIMIT_MS)
    const bytes = old.reduce((sum, client) => sum + client.bytes, 0)
    let told = 0
    for (let i = 0; i < NODES_ADDED; i += 1) {
      const fresh = this.#newClient(this.#question.clients + i)
      told += old.filter((client) => this.#sees(client, fresh)).length
      times.push(...(await this.#seen(`"Name":"${fresh.name}.`, fresh, old, () => this.#join(fresh))))
      this.#clients.push(fresh)
    }
    await this.#quiet(performance.now(), SEEN_LIMIT_MS)
    return { p99: quantile(times, 0.99), bytes: (old.reduce((sum, client) => sum + client.bytes, 0) - bytes) / told }
  }

  /** Seconds until each of those that may see it has been told. Who was not told in time counts with the limit. */
  async #seen(text: string, who: LightClient, among: readonly LightClient[], act: () => Promise<void>): Promise<readonly number[]> {
    const watch: Watch = { text, waiting: new Set(among.filter((client) => client !== who && this.#sees(client, who))), seenAt: [] }
    this.#watch = watch
    const begun = performance.now()
    await act()
    await until(() => watch.waiting.size === 0, SEEN_LIMIT_MS)
    this.#watch = undefined
    return [...watch.seenAt.map((at) => (at - begun) / 1000), ...[...watch.waiting].map(() => SEEN_LIMIT_MS / 1000)]
  }

  #sees(client: LightClient, other: LightClient): boolean {
    return this.#policy.sees(client.index, other.index)
  }
}

interface Storm {
  readonly complete: number | undefined
  readonly quiet: number | undefined
  readonly cpu: number | undefined
}

function inSeconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : ms / 1000
}

function seconds(value: number | undefined): string {
  return value === undefined ? 'never' : `${value.toFixed(2)} s`
}

/** The value that the given share of them does not exceed. */
export function quantile(values: readonly number[], share: number): number | undefined {
  return [...values].sort((a, b) => a - b)[Math.max(0, Math.ceil(values.length * share) - 1)]
}
