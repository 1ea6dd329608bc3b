import { formatPrefix } from '@meshwright/ip'
import {
  addressesNamed,
  checkPolicy,
  type CompiledPolicy,
  compilePolicy,
  type Connection,
  type Diagnostic,
  diffAccess,
  explainAccess,
  parsePolicy,
  type Policy,
  runPolicyTests,
} from '@meshwright/policy'
import { formatHuJson } from '@meshwright/policy/hujson'
import { readFile, writeFile } from 'node:fs/promises'
import { readInventory } from './inventory.ts'
import { UsageError } from './usage.ts'

/** What a command has to say: lines for people, a value for programs, and the exit status. */
export interface Outcome {
  readonly status: 0 | 1
  readonly lines: readonly string[]
  readonly json: unknown
}

/** Options as they were given. */
export interface Options {
  readonly inventory?: string | undefined
  readonly format?: string | undefined
  readonly proto?: string | undefined
  readonly as?: string | undefined
  readonly check?: boolean | undefined
  readonly write?: boolean | undefined
}

const PROTOCOLS: Readonly<Record<string, number>> = { icmp: 1, tcp: 6, udp: 17, 'ipv6-icmp': 58, sctp: 132 }

/** `check FILE`: every problem, with its place and remedy. */
export async function check([file]: readonly string[], options: Options): Promise<Outcome> {
  const { policy, diagnostics } = parsePolicy(await readBytes(file))
  const inventory = options.inventory === undefined ? undefined : await readInventory(options.inventory)
  const all = policy === undefined || inventory === undefined ? diagnostics : checkPolicy(policy, inventory)
  const github = options.format === 'github'
  const lines = all.map((problem) => (github ? toGithub(file ?? '', problem) : toText(file ?? '', problem)))
  return {
    status: all.length > 0 ? 1 : 0,
    lines: all.length > 0 || github ? lines : [`${file ?? ''}: good`],
    json: { ok: all.length === 0, diagnostics: all },
  }
}

/** `test FILE`: how each entry of tests and sshTests goes, and which statements none of them needs. */
export async function test([file]: readonly string[], options: Options): Promise<Outcome> {
  const compiled = await compile(file, options)
  if ('lines' in compiled) return compiled
  const results = runPolicyTests(compiled)
  const failed = results.filter(({ passed }) => !passed)
  const lines = failed.flatMap(({ section, index, failures }) =>
    failures.map(({ at, message }) => `${file ?? ''}:${at.line}:${at.column}: ${section}[${index}]: ${message}`),
  )
  return {
    status: failed.length > 0 ? 1 : 0,
    lines: [...lines, `${results.length - failed.length} of ${results.length} tests passed`],
    json: { ok: failed.length === 0, results },
  }
}

/** `explain FILE SRC DST[:PORT]`: yes with every statement that contributes, no with what the nearest ones lack. */
export async function explain([file, from, to]: readonly string[], options: Options): Promise<Outcome> {
  if (from === undefined || to === undefined) throw new UsageError('explain needs FILE SRC DST[:PORT]')
  const compiled = await compile(file, options)
  if ('lines' in compiled) return compiled
  const { name, port } = splitPort(to)
  const protocol = PROTOCOLS[options.proto ?? 'tcp'] ?? Number(options.proto)
  if (!Number.isInteger(protocol) || protocol < 0 || protocol > 255) throw new UsageError(`--proto ${options.proto ?? ''}: not a protocol`)
  const sources = named(compiled, from)
  const destinations = named(compiled, name)
  const pairs = sources.flatMap((source) =>
    destinations
      .filter(({ family }) => family === source.family)
      .map((destination): Connection => ({ source, destination, protocol, port })),
  )
  const answers = pairs.map((connection) => ({ connection, explanation: explainAccess(compiled, connection) }))
  const lines = answers.flatMap(({ connection: { source, destination }, explanation }) => [
    `${explanation.allowed ? 'yes' : 'no '} ${source} -> ${destination} port ${port}`,
    ...explanation.contributions.map(
      ({ kind, at, sources: src, destinations: dst, via }) =>
        `    line ${at.line}: ${kind} ${src.map(({ text }) => text).join(', ')} -> ${dst.map(({ text }) => text).join(', ')}${
          via.length > 0 ? ` via ${via.join(', ')}` : ''
        }`,
    ),
    ...explanation.nearest.map(({ kind, at, lacks }) => `    line ${at.line}: ${kind} lacks ${lacks.join(', ')}`),
    ...(explanation.candidates.length === 0 ? ['    nobody has or serves the destination'] : []),
  ])
  const allowed = answers.length > 0 && answers.every(({ explanation }) => explanation.allowed)
  const json = answers.map(({ connection, explanation }) => ({
    ...connection,
    ...explanation,
    candidates: explanation.candidates.map((node) => node.name),
    contributions: explanation.contributions.map((each) => ({ ...each, receivers: each.receivers.map((node) => node.name) })),
  }))
  return { status: allowed ? 0 : 1, lines, json: { ok: allowed, answers: json } }
}

/** `diff OLD NEW`: access gained and lost by people and machines. */
export async function diff([old, now]: readonly string[], options: Options): Promise<Outcome> {
  const before = await compile(old, options)
  if ('lines' in before) return before
  const after = await compile(now, options)
  if ('lines' in after) return after
  const changes = diffAccess(before, after)
  const rows = changes.map(
    ({ change, kind, source, destination, what, detail }) =>
      `| ${change} | ${kind} | ${source} | ${destination} | ${what} | ${detail.replaceAll('|', '\\|')} |`,
  )
  const lines =
    changes.length === 0
      ? ['Nobody gains or loses any access.']
      : ['| change | kind | source | destination | what | ports or value |', '|---|---|---|---|---|---|', ...rows]
  return { status: 0, lines, json: { ok: true, changes } }
}

/** `preview FILE --as NODE`: what a node would receive. */
export async function preview([file]: readonly string[], options: Options): Promise<Outcome> {
  const compiled = await compile(file, options)
  if ('lines' in compiled) return compiled
  const node = compiled.tailnet.nodes.find(({ name }) => name === options.as)
  if (node === undefined)
    throw new UsageError(`--as ${options.as ?? ''}: no such node; known are ${compiled.tailnet.nodes.map(({ name }) => name).join(', ')}`)
  const peers = compiled.peersFor(node.id).map((peer) => ({
    name: peer.node.name,
    addresses: peer.addresses,
    routes: [...peer.subnetRoutes, ...peer.exitRoutes].map(formatPrefix),
  }))
  const json = {
    node: node.name,
    filter: compiled.filterFor(node.id),
    peers,
    ssh: compiled.sshFor(node.id),
    attributes: Object.fromEntries(compiled.attrsFor(node.id)),
  }
  return { status: 0, lines: [JSON.stringify(json, undefined, 2)], json }
}

/** `fmt FILE`: the formatted text, or whether it is formatted, or the file rewritten. */
export async function fmt([file]: readonly string[], options: Options): Promise<Outcome> {
  const text = new TextDecoder().decode(await readBytes(file))
  const formatted = formatHuJson(text)
  if (!formatted.ok) return { status: 1, lines: [`${file ?? ''}: ${formatted.error.message}`], json: { ok: false, error: formatted.error } }
  const same = formatted.value === text
  if (options.check === true) return { status: same ? 0 : 1, lines: same ? [] : [`${file ?? ''}: not formatted`], json: { ok: same } }
  if (options.write === true && file !== undefined && !same) await writeFile(file, formatted.value)
  return {
    status: 0,
    lines: options.write === true ? [] : [formatted.value.trimEnd()],
    json: { ok: true, changed: !same, text: formatted.value },
  }
}

async function compile(file: string | undefined, options: Options): Promise<CompiledPolicy | Outcome> {
  const { policy, diagnostics } = parsePolicy(await readBytes(file))
  if (policy === undefined) return refused(file ?? '', diagnostics)
  if (options.inventory === undefined) throw new UsageError('--inventory INV is missing: who and what is in the tailnet')
  return compilePolicy(policy satisfies Policy, await readInventory(options.inventory))
}

function refused(file: string, diagnostics: readonly Diagnostic[]): Outcome {
  return { status: 1, lines: diagnostics.map((problem) => toText(file, problem)), json: { ok: false, diagnostics } }
}

async function readBytes(file: string | undefined): Promise<Uint8Array> {
  if (file === undefined) throw new UsageError('FILE is missing')
  try {
    return await readFile(file)
  } catch (error) {
    throw new UsageError(`${file}: ${error instanceof Error ? error.message : String(error)}`)
  }
}

function named(compiled: CompiledPolicy, name: string): ReturnType<typeof addressesNamed> {
  const addresses = addressesNamed(compiled, name)
  if (addresses.length === 0) throw new UsageError(`${name}: no node, address or name of the policy, or it has no nodes`)
  return addresses
}

/** `DST`, `DST:PORT`, `[v6]:PORT`; port 80 where none is given. */
function splitPort(text: string): { readonly name: string; readonly port: number } {
  const match = /^(?:\[(.+)\]|([^\s]+?)):([0-9]{1,5})$/.exec(text)
  const bare = /^[0-9a-fA-F:]+$/.test(text) && text.split(':').length > 2
  if (match === null || bare) return { name: text, port: 80 }
  return { name: match[1] ?? match[2] ?? text, port: Number(match[3]) }
}

function toText(file: string, { line, column, message, remedy }: Diagnostic): string {
  return `${file}:${line}:${column}: ${message}${remedy === undefined ? '' : ` (${remedy})`}`
}

function toGithub(file: string, { line, column, message, remedy }: Diagnostic): string {
  const text = remedy === undefined ? message : `${message}. ${remedy}`
  const escaped = text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')
  return `::error file=${file},line=${line},col=${column}::${escaped}`
}
