import { formatPrefix } from '@meshwright/ip'
import { protocolName } from '@meshwright/policy'
import { compile } from './load.ts'
import { columns, count, type Options, type Outcome, PLAIN } from './outcome.ts'
import { DEFAULT_POLICY, UsageError } from './usage.ts'

/** `preview [FILE] --as NODE`: what a node would receive. */
export async function preview([file, ...more]: readonly string[], options: Options): Promise<Outcome> {
  if (more.length > 0 || (file !== undefined && options.policy !== undefined)) throw new UsageError('preview needs [FILE] --as NODE')
  if (options.as === undefined) throw new UsageError('--as NODE is missing')
  const compiled = await compile(file ?? options.policy ?? DEFAULT_POLICY, options)
  if ('lines' in compiled) return compiled
  const { nodes, users } = compiled.tailnet
  const node = nodes.find(({ name }) => name === options.as) ?? nodes.find(({ name, addresses }) => name.split('.')[0] === options.as || addresses.some(({ key }) => key === options.as))
  if (node === undefined) throw new UsageError(`--as ${options.as}: no such node; known are ${nodes.map(({ name }) => name).join(', ')}`)
  const now = Date.now()
  const peers = compiled.peersFor(node.id, now).map((peer) => ({
    name: peer.node.name,
    addresses: peer.addresses,
    routes: [...peer.subnetRoutes, ...peer.exitRoutes].map(formatPrefix),
  }))
  const routes = compiled.routesFor(node.id)
  const json = {
    node: node.name,
    addresses: compiled.addressesFor(node.id),
    filter: compiled.filterFor(node.id, now),
    peers,
    routes: { served: routes.served.map(formatPrefix), primary: routes.primary.map(formatPrefix) },
    ssh: compiled.sshFor(node.id, now),
    attributes: Object.fromEntries(compiled.attrsFor(node.id)),
  }
  const { strong, faint } = options.style ?? PLAIN
  const owner = node.tags.length > 0 ? node.tags.join(', ') : users.find(({ id }) => id === node.user)?.login ?? 'no user'
  const section = (title: string, rows: readonly (readonly string[])[]): string[] => ['', strong(title), ...(rows.length === 0 ? [faint('  none')] : columns(rows, '  '))]
  const lines = [
    `${strong(node.name)}  ${json.addresses.join(', ')}  ${faint(owner)}`,
    ...(json.routes.served.length === 0 ? [] : [`  serves ${json.routes.served.map((route) => (json.routes.primary.includes(route) ? `${route} (primary)` : route)).join(', ')}`]),
    ...section(`${count(json.filter.length, 'rule')} of its packet filter, by which it lets in`, json.filter.flatMap(({ SrcIPs, DstPorts = [], IPProto, CapGrant = [] }) => [
      ...DstPorts.map(({ IP, Ports }, i) => [i === 0 ? shorten(SrcIPs) : '', `-> ${IP}`, `${IPProto === undefined ? 'tcp, udp, icmp' : IPProto.map(protocolName).join(', ')} ${ports(Ports)}`]),
      ...CapGrant.flatMap(({ Dsts, CapMap = {} }) => Object.entries(CapMap).map(([name, values]) => [shorten(SrcIPs), `-> ${Dsts.join(', ')}`, `${name} ${JSON.stringify(values)}`])),
    ])),
    ...section(`${count(peers.length, 'peer')} that it sees`, peers.map((peer) => [peer.name, peer.addresses.join(', '), peer.routes.length === 0 ? '' : `routes ${peer.routes.join(', ')}`])),
    ...section(`${count(json.ssh.length, 'rule')} of its SSH server, the first that fits decides`, json.ssh.map(({ principals, sshUsers, action }) => [
      shorten([...new Set(principals.map(({ nodeIP }) => nodeIP))]),
      `as ${Object.entries(sshUsers).filter(([, local]) => local !== '').map(([login]) => (login === '*' ? 'any user but root' : login)).join(', ') || 'nobody'}`,
      action.accept === true ? 'accepted' : 'after a check',
    ])),
    ...section('Attributes', Object.entries(json.attributes).map(([name, values]) => [name, values === null || values === undefined || (Array.isArray(values) && values.length === 0) ? '' : JSON.stringify(values)])),
  ]
  return { status: 0, lines, json }
}

const MOST_SOURCES = 4

function shorten(texts: readonly string[]): string {
  if (texts.length === 0) return 'nobody'
  return texts.length <= MOST_SOURCES ? texts.join(', ') : `${texts.slice(0, MOST_SOURCES).join(', ')} and ${texts.length - MOST_SOURCES} more`
}

function ports({ First, Last }: { readonly First: number; readonly Last: number }): string {
  return First === 0 && Last === 65535 ? 'all ports' : First === Last ? `port ${First}` : `ports ${First}-${Last}`
}
