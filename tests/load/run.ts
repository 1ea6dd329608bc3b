import os from 'node:os'
import { parseArgs } from 'node:util'
import { type ControlFigures, measureControl } from './control.ts'
import { type FloodFigures, measureFlood, missingRelay, type RelayKind } from './flood.ts'
import { measureLiars } from './liars.ts'
import { type LieKind, LIES, RELAY_LIES, type RelayLieKind, TLS_LIES } from './lies.ts'
import type { PolicyKind } from './policies.ts'
import { measureRelayLiars } from './relay-liars.ts'
import { formatFlood, formatLiars, formatTables, GROWN_MUST_MEGABYTES, liarsHeld, misses, SHARE_MUST } from './report.ts'
import { missing, type ServerKind } from './servers.ts'

const USAGE = `usage: npm run load [-- --clients N] [--policy allow-all|groups|both] [--server ours|headscale|both] [--json]
       npm run load -- --flood [--pairs N] [--json]
       npm run load -- --liars [--half-open N] [--lies KIND,KIND] [--rounds N] [--offer N] [--elsewhere] [--on-disk] [--tls] [--relay] [--json]

Light clients through real sockets against our control server and a real headscale, one after the other: what joining costs,
how fast changes are seen, what a mass reconnection takes. Linux only.
  --clients N   how many clients; 300 unless told, and 1,000 or more ask for joining and reconnecting alone
  --policy P    allow-all, groups (20 groups and 100 rules), or both (unless told)
  --server S    ours, headscale, or both (unless told); headscale is left out where it is not installed
  --flood       instead: pairs of clients that send through a relay as fast as they can, through ours and a real derper
  --pairs N     how many pairs; 50 unless told
  --liars       instead: what honest clients of our control server feel of liars, alone and beside them
  --half-open N connections that stop in the middle of their handshake meanwhile; 10000 unless told
  --lies KINDS  these kinds of liars alone, by their names in the table
  --rounds N    how often each is measured by turns, alone and beside liars; 5 unless told
  --offer N     so many lies a second are begun whatever became of those before; unless told, liars wait for answers
  --elsewhere   measure beside the same lies told to another server too: what sharing the machine with liars costs by itself
  --on-disk     with the server's database on a disk, not in memory: a disk that stalls now and then decides p99 alone and among liars
  --tls         with TLS of the server's own, spoken by honest clients; liars begin handshakes and break off, or say what is no ClientHello
  --relay       what honest clients of our relay and its STUN feel of liars; with --tls of such that lie before HTTP
  --json        print {machine, figures} alone on standard output

Exit status: 0 ours reached all that it must, 1 it did not, 2 wrong usage or a server that does not start.
`

const FLOOD_SECONDS = 6
const LIAR_ROUNDS = 5

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { clients: { type: 'string' }, policy: { type: 'string' }, server: { type: 'string' }, flood: { type: 'boolean' }, pairs: { type: 'string' }, liars: { type: 'boolean' }, 'half-open': { type: 'string' }, lies: { type: 'string' }, rounds: { type: 'string' }, offer: { type: 'string' }, elsewhere: { type: 'boolean' }, 'on-disk': { type: 'boolean' }, tls: { type: 'boolean' }, relay: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help === true) {
    process.stdout.write(USAGE)
    return 0
  }
  if (values.flood === true) return flood(Number(values.pairs ?? 50), values.json === true)
  if (values.liars === true) return liars({ halfOpen: Number(values['half-open'] ?? 10_000), named: values.lies?.split(','), perSecond: values.offer === undefined ? undefined : Number(values.offer), elsewhere: values.elsewhere === true, onDisk: values['on-disk'] === true, tls: values.tls === true, relay: values.relay === true, rounds: Number(values.rounds ?? LIAR_ROUNDS), json: values.json === true })
  const clients = Number(values.clients ?? 300)
  const servers = choice<ServerKind>(values.server, ['ours', 'headscale'])
  const policies = choice<PolicyKind>(values.policy, ['allow-all', 'groups'])
  if (!Number.isSafeInteger(clients) || clients < 2 || servers === undefined || policies === undefined) {
    process.stderr.write(USAGE)
    return 2
  }
  const figures: ControlFigures[] = []
  for (const policy of policies) {
    for (const server of servers) {
      const absent = missing(server)
      if (absent !== undefined) {
        process.stderr.write(`load: ${server} is left out: ${absent}\n`)
        continue
      }
      process.stderr.write(`load: ${server}, ${clients} clients, ${policy}\n`)
      figures.push(await measureControl({ server, policy, clients, short: clients >= 1_000, tell: (line) => process.stderr.write(`  ${line}\n`) }))
    }
  }
  if (values.json === true) process.stdout.write(`${JSON.stringify({ machine: machineName(), figures }, null, 2)}\n`)
  else process.stdout.write(`${machineName()}\n\n${formatTables(figures)}`)
  const missed = misses(figures)
  for (const line of missed) process.stderr.write(`load: ${line}\n`)
  return missed.length > 0 ? 1 : 0
}

async function flood(pairs: number, json: boolean): Promise<number> {
  if (!Number.isSafeInteger(pairs) || pairs < 1 || pairs > 1_000) {
    process.stderr.write(USAGE)
    return 2
  }
  const figures: FloodFigures[] = []
  for (const relay of ['ours', 'derper'] satisfies RelayKind[]) {
    const absent = missingRelay(relay)
    if (absent !== undefined) process.stderr.write(`load: ${relay} is left out: ${absent}\n`)
    else figures.push(await measureFlood(relay, pairs, FLOOD_SECONDS))
  }
  process.stdout.write(json ? `${JSON.stringify({ machine: machineName(), figures }, null, 2)}\n` : `${machineName()}\n\n${formatFlood(figures)}`)
  return figures.some((each) => each.relay === 'ours' && (each.deliveredShare < SHARE_MUST || each.grownMegabytes > GROWN_MUST_MEGABYTES)) ? 1 : 0
}

interface LiarWishes {
  readonly halfOpen: number
  readonly named: readonly string[] | undefined
  readonly perSecond: number | undefined
  readonly elsewhere: boolean
  readonly onDisk: boolean
  readonly tls: boolean
  readonly relay: boolean
  readonly rounds: number
  readonly json: boolean
}

async function liars({ halfOpen, named, perSecond, elsewhere, onDisk, tls, relay, rounds, json }: LiarWishes): Promise<number> {
  const known: readonly (LieKind | RelayLieKind)[] = tls ? TLS_LIES : relay ? RELAY_LIES : LIES
  const paceIsWrong = perSecond !== undefined && !(Number.isSafeInteger(perSecond) && perSecond > 0 && perSecond <= 10_000)
  const namesAreWrong = named?.some((name) => !known.some((kind) => kind === name)) === true
  if (!Number.isSafeInteger(halfOpen) || halfOpen < 0 || halfOpen > 15_000 || !Number.isSafeInteger(rounds) || rounds < 1 || rounds > 50 || paceIsWrong || namesAreWrong || (relay && onDisk)) {
    process.stderr.write(USAGE)
    return 2
  }
  const wanted = <Kind extends string>(kinds: readonly Kind[]): readonly Kind[] => kinds.filter((kind) => named?.includes(kind) !== false)
  const same = { halfOpen, perSecond, elsewhere, tls, rounds, tell: (line: string) => void process.stderr.write(`  ${line}\n`) }
  const figures = relay ? await measureRelayLiars({ ...same, kinds: tls ? wanted(TLS_LIES) : wanted(RELAY_LIES) }) : await measureLiars({ ...same, kinds: tls ? wanted(TLS_LIES) : wanted(LIES), onDisk })
  process.stdout.write(json ? `${JSON.stringify({ machine: machineName(), figures }, null, 2)}\n` : `${machineName()}\n\n${formatLiars(figures)}`)
  return liarsHeld(figures) ? 0 : 1
}

function machineName(): string {
  return `${os.cpus()[0]?.model ?? 'unknown'}, ${os.cpus().length} cores, ${process.platform} ${process.arch}, Node ${process.versions.node}`
}

function choice<T extends string>(given: string | undefined, all: readonly T[]): readonly T[] | undefined {
  if (given === undefined || given === 'both') return all
  const chosen = all.filter((each) => each === given)
  return chosen.length === 0 ? undefined : chosen
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))

main().then(
  (status) => {
    process.exit(status)
  },
  (error: unknown) => {
    process.stderr.write(`load: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(2)
  },
)
