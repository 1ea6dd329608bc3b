import { type AccessChange, type CompiledPolicy, diffAccess, protocolName } from '@meshwright/policy'
import { formatPrefix } from '@meshwright/ip'
import { nameOf } from './files.ts'
import { compile } from './load.ts'
import { columns, count, type Options, type Outcome, PLAIN } from './outcome.ts'
import { UsageError } from './usage.ts'

/** Rows beyond this many are left out of Markdown: a comment on a pull request has a limit. */
const MOST_ROWS = 200

/** One line of the table: changes that differ in their protocol alone are one. */
interface Row {
  readonly change: AccessChange['change']
  readonly who: string
  readonly where: string
  readonly what: string
}

/** `diff OLD NEW`: access gained and lost by people and machines, or the proof that there is none. */
export async function diff([old, now, ...more]: readonly string[], options: Options): Promise<Outcome> {
  if (old === undefined || now === undefined || more.length > 0) throw new UsageError('diff needs OLD NEW')
  if (old === '-' && now === '-') throw new UsageError('OLD and NEW cannot both be standard input')
  const before = await compile(old, options)
  if ('lines' in before) return before
  const after = await compile(now, options)
  if ('lines' in after) return after
  const wallNow = Date.now()
  const changes = diffAccess(before, after, wallNow)
  const different = differentNodes(before, after, wallNow)
  const { nodes } = after.tailnet
  const { good, bad, strong } = options.style ?? PLAIN
  const json = { ok: true, changes, nodes: nodes.length, identical: different.length === 0, different }
  if (changes.length === 0) {
    const proof =
      different.length === 0
        ? `Nothing changes: each of the ${count(nodes.length, 'node')} receives the same filter, peers, routes, SSH rules and attributes, byte for byte.`
        : `Nobody gains or loses any access. ${count(different.length, 'node')} of ${nodes.length} will be sent something new that allows the same, or other attributes: ${different.join(', ')}.`
    return { status: 0, lines: [proof], json }
  }
  const rows = rowsOf(changes)
  const [gained, lost] = [rows.filter(({ change }) => change === 'gained').length, rows.filter(({ change }) => change === 'lost').length]
  const title = `Access: ${gained} gained, ${lost} lost`
  const scope = (quote: string): string => `From ${quote}${nameOf(old)}${quote} to ${quote}${nameOf(now)}${quote}, for ${count(nodes.length, 'node')} and ${count(after.tailnet.users.length, 'user')}.`
  if (options.style !== undefined && options.style !== PLAIN) {
    const table = columns(rows.map(({ change, who, where, what }) => [change === 'gained' ? '+ gains' : '- loses', who, where, what]))
    return { status: 0, lines: [strong(title), scope(''), '', ...table.map((line) => (line.startsWith('+') ? good : bad)(line))], json }
  }
  const lines = [
    `### ${title}`,
    '',
    scope('`'),
    '',
    '| | who | where | what |',
    '|---|---|---|---|',
    ...rows.slice(0, MOST_ROWS).map(({ change, who, where, what }) => `| **${change === 'gained' ? 'gains' : 'loses'}** | ${cell(who)} | ${cell(where)} | ${cell(what)} |`),
    ...(rows.length > MOST_ROWS ? ['', `${rows.length - MOST_ROWS} more rows are left out; \`--json\` has them all.`] : []),
  ]
  return { status: 0, lines, json }
}

function rowsOf(changes: readonly AccessChange[]): Row[] {
  const joined = new Map<string, { readonly first: AccessChange; readonly whats: string[] }>()
  for (const change of changes) {
    const key = JSON.stringify([change.change, change.kind, change.source, change.destination, change.detail])
    const known = joined.get(key)
    if (known === undefined) joined.set(key, { first: change, whats: [change.what] })
    else known.whats.push(change.what)
  }
  const rows = [...joined.values()].map(({ first, whats }): Row => ({ change: first.change, who: first.source, where: first.destination === first.source ? 'own devices' : first.destination, what: whatOf(first, whats) }))
  // What is gained comes first: that is what a reviewer must judge.
  return [...rows.filter(({ change }) => change === 'gained'), ...rows.filter(({ change }) => change === 'lost')]
}

function whatOf({ kind, detail }: AccessChange, whats: readonly string[]): string {
  if (kind === 'app') return `capability ${whats.join(', ')} ${detail}`
  if (kind === 'ssh') return `SSH as ${whats.map((login) => (login === '*' ? 'any user but root' : login)).join(', ')}${detail === 'check' ? ', after a check' : ''}`
  const names = [...whats]
    .sort((a, b) => order(a) - order(b))
    .map((what) => {
      const [protocol, ...via] = what.split(' ')
      return [protocolName(Number(protocol)), ...via].join(' ')
    })
  const plain = names.join(', ')
  if (plain === 'tcp, udp, icmp, ipv6-icmp') return detail === '*' ? 'everything' : `port ${detail}`
  return detail === '*' ? plain : `${plain} ${detail}`
}

function order(what: string): number {
  const at = ['6', '17', '1', '58'].indexOf(what.split(' ')[0] ?? '')
  return at < 0 ? 9 : at
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ')
}

/** Names of the nodes that are not sent the same by both. */
function differentNodes(before: CompiledPolicy, after: CompiledPolicy, now: number): string[] {
  return after.tailnet.nodes.filter(({ id }) => everythingOf(before, id, now) !== everythingOf(after, id, now)).map(({ name }) => name)
}

function everythingOf(compiled: CompiledPolicy, id: number, now: number): string {
  const peers = compiled.peersFor(id, now).map((peer) => [peer.node.id, peer.addresses, [...peer.subnetRoutes, ...peer.exitRoutes].map(formatPrefix), peer.capabilities])
  const { served, primary } = compiled.routesFor(id)
  return JSON.stringify([compiled.filterFor(id, now), peers, compiled.sshFor(id, now), [...compiled.attrsFor(id)], served, primary, compiled.addressesFor(id)])
}
