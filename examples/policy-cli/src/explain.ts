import { formatPrefix } from '@meshwright/ip'
import { type Connection, explainAccess, type Explanation, type Involved, protocolName, type TailnetNode } from '@meshwright/policy'
import { compileOrImagine, named } from './load.ts'
import { at, type Options, type Outcome, PLAIN, type Style } from './outcome.ts'
import { DEFAULT_POLICY, UsageError } from './usage.ts'

/** Numbers of the protocols that people name here; a policy may name more. */
const PROTOCOLS: Readonly<Record<string, number>> = { icmp: 1, tcp: 6, udp: 17, gre: 47, esp: 50, 'ipv6-icmp': 58, sctp: 132 }
const WITH_PORTS = [6, 17, 132]
const DEFAULT_PORT = 80
const SSH_PORT = 22

/** `explain [FILE] SRC DST[:PORT]`: yes with every statement that contributes, no with what the nearest ones lack. */
export async function explain(words: readonly string[], options: Options): Promise<Outcome> {
  const [from, to] = words.slice(-2)
  const file = options.policy ?? (words.length === 3 ? words[0] : DEFAULT_POLICY)
  if (from === undefined || to === undefined || words.length > 3 || (words.length === 3 && options.policy !== undefined))
    throw new UsageError('explain needs [FILE] SRC DST[:PORT]')
  const protocol = protocolOf(options.proto ?? 'tcp')
  const target = splitPort(to, protocol)
  const loaded = await compileOrImagine(file, [from, target.name], options)
  if ('lines' in loaded) return loaded
  const { compiled, imagined } = loaded
  const destinations = named(compiled, target.name)
  const pairs = named(compiled, from).flatMap((source) =>
    destinations.filter(({ family }) => family === source.family).map((destination): Connection => ({ source, destination, protocol, port: target.port })),
  )
  if (pairs.length === 0) throw new UsageError(`${from} and ${target.name} have no address of the same family`)
  const { nodes } = compiled.tailnet
  const now = Date.now()
  const answers = pairs.map((connection) => ({ connection, explanation: explainAccess(compiled, connection, now) }))
  const allowed = answers.every(({ explanation }) => explanation.allowed)
  const style = options.style ?? PLAIN
  const note = imagined ? [style.faint('(no inventory: one device for each user and tag that the policy names)'), ''] : []
  return {
    status: allowed ? 0 : 1,
    lines: [...note, ...join(answers.map(({ connection, explanation }) => ({ head: headOf(connection, explanation, nodes, style), body: bodyOf(connection, explanation, style) })))],
    json: { ok: allowed, imagined, answers: answers.map(({ connection, explanation }) => toJson(connection, explanation)) },
  }
}

/** Answers with the same reasons stand together: mostly both families of the same two nodes. */
function join(answers: readonly { readonly head: string; readonly body: readonly string[] }[]): string[] {
  const lines: string[] = []
  for (const [i, { head, body }] of answers.entries()) {
    lines.push(head)
    const next = answers[i + 1]
    if (next === undefined || next.body.join('\n') !== body.join('\n')) lines.push(...body, ...(next === undefined ? [] : ['']))
  }
  return lines
}

function headOf({ source, destination, protocol, port }: Connection, { allowed }: Explanation, nodes: readonly TailnetNode[], { good, bad }: Style): string {
  const label = (ip: Connection['source']): string => {
    const node = nodes.find(({ addresses }) => addresses.some((each) => each.equals(ip)))
    return node === undefined ? ip.key : `${node.name} (${ip.key})`
  }
  const what = `${protocolName(protocol)}${WITH_PORTS.includes(protocol) ? ` ${port}` : ''}`
  return `${allowed ? good('yes') : bad('no ')}  ${label(source)} -> ${label(destination)}  ${what}`
}

function bodyOf({ protocol, port }: Connection, { contributions, nearest, candidates, routes, ssh }: Explanation, style: Style): string[] {
  const { strong, faint } = style
  const lines: string[] = []
  const row = (name: string, text: string): void => void lines.push(`         ${name.padEnd(12)} ${text}`)
  for (const { kind, at: place, sources, destinations, via, postures, receivers } of contributions) {
    lines.push(`     ${kind === 'implicit' ? 'no acls and no grants: everything is allowed' : `by ${kind} ${strong(at(place))}`}`)
    for (const each of sources) row('source', involved(each, style))
    for (const each of destinations) row('destination', involved(each, style))
    for (const each of postures) row('posture', `${each.text} ${faint(at(each))}`)
    if (via.length > 0) row('via', via.join(', '))
    if (receivers.length > 0) row('let in by', receivers.map(({ name }) => name).join(', '))
  }
  if (contributions.length > 0 && routes.length > 0) lines.push(`     over ${routes.map(({ node, route }) => `${node.name} (${formatPrefix(route)})`).join(' or ')}`)
  for (const { kind, at: place, sources, destinations, reasons } of nearest) {
    lines.push(`     ${kind} ${strong(at(place))} ${faint(`${sources.join(', ')} -> ${destinations.join(', ')}`)}`)
    for (const reason of reasons) row('lacks', reason)
  }
  if (candidates.length === 0) lines.push('     nobody has or serves the destination')
  if (protocol === 6 && port === SSH_PORT) {
    for (const { at: place, action, logins, sources, destinations, postures } of ssh) {
      lines.push(`     ssh ${strong(at(place))} ${action === 'check' ? 'after a check' : 'accepts'} as ${logins.join(', ')}`)
      for (const each of sources) row('source', involved(each, style))
      for (const each of destinations) row('destination', involved(each, style))
      for (const each of postures) row('posture', `${each.text} ${faint(at(each))}`)
    }
    if (ssh.length === 0 && candidates.length > 0) lines.push(faint('     no entry of ssh lets it in: Tailscale SSH refuses, other SSH servers decide themselves'))
  }
  return lines
}

function involved({ text, at: place, through }: Involved, { faint }: Style): string {
  return `${text} ${faint(at(place))}${through.map((each) => ` through ${each.text} ${faint(at(each))}`).join(',')}`
}

function toJson(connection: Connection, explanation: Explanation): unknown {
  return {
    ...connection,
    ...explanation,
    candidates: explanation.candidates.map(({ name }) => name),
    contributions: explanation.contributions.map((each) => ({ ...each, receivers: each.receivers.map(({ name }) => name) })),
    routes: explanation.routes.map(({ node, route }) => ({ node: node.name, route: formatPrefix(route) })),
    ssh: explanation.ssh.map((each) => ({ ...each, node: each.node.name })),
  }
}

function protocolOf(text: string): number {
  const protocol = PROTOCOLS[text.toLowerCase()] ?? (/^[0-9]+$/.test(text) ? Number(text) : Number.NaN)
  if (!Number.isInteger(protocol) || protocol < 1 || protocol > 255) throw new UsageError(`--proto ${text}: not a protocol; write ${Object.keys(PROTOCOLS).join(', ')} or a number`)
  return protocol
}

/** `DST`, `DST:PORT`, `[v6]:PORT`. Protocols without ports have port 0. */
function splitPort(text: string, protocol: number): { readonly name: string; readonly port: number } {
  const none = WITH_PORTS.includes(protocol) ? DEFAULT_PORT : 0
  const match = /^(?:\[(.+)\]|([^\s]+?)):([0-9]{1,5})$/.exec(text)
  const bare = /^[0-9a-fA-F:.]+$/.test(text) && text.split(':').length > 2
  if (match === null || bare) return { name: text.replace(/^\[(.*)\]$/, '$1').replace(/:\*$/, ''), port: none }
  const port = Number(match[3])
  if (port > 65535) throw new UsageError(`${text}: no port ${port}`)
  return { name: match[1] ?? match[2] ?? text, port }
}
