import { type Ip, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import type { TailnetNode, TailnetUser, TailnetView, UserRole } from '@meshwright/policy'
import { readFile } from 'node:fs/promises'
import { UsageError } from './usage.ts'

type Json = { readonly [name: string]: unknown }

const FORMS = 'our own JSON ({users, nodes}), `tailscale status --json`, or `headscale nodes list -o json`'
const ROLES: readonly UserRole[] = ['owner', 'admin', 'network-admin', 'it-admin', 'billing-admin', 'auditor', 'member']

/** Reads who and what is in the tailnet, in any of the three forms. @throws UsageError for anything else */
export async function readInventory(file: string): Promise<TailnetView> {
  let value: unknown
  try {
    value = JSON.parse(await readFile(file, 'utf8'))
  } catch (error) {
    throw new UsageError(`${file}: ${error instanceof Error ? error.message : String(error)}`)
  }
  const view = Array.isArray(value)
    ? fromHeadscale(value)
    : isObject(value) && 'Peer' in value
    ? fromStatus(value)
    : isObject(value) && Array.isArray(value['nodes'])
    ? fromOwn(value)
    : undefined
  if (view === undefined) throw new UsageError(`${file}: not an inventory; expected ${FORMS}`)
  return view
}

/** {users: [{id, login, role}], nodes: [{id, name, user, tags, addresses, advertisedRoutes, approvedRoutes}], domains}; `user` is an id or a login. */
function fromOwn(value: Json): TailnetView {
  const users = objects(value['users']).map((user, i): TailnetUser => {
    const role = ROLES.find((each) => each === user['role']) ?? 'member'
    return { id: numberOf(user['id']) ?? i + 1, login: textOf(user['login']) ?? textOf(user['name']) ?? '', role }
  })
  const nodes = objects(value['nodes']).map((node, i) => {
    const user = users.find(({ id, login }) => id === node['user'] || login === node['user'])
    return makeNode(
      numberOf(node['id']) ?? i + 1,
      textOf(node['name']) ?? `node-${i + 1}`,
      user,
      texts(node['tags']),
      texts(node['addresses']),
      texts(node['advertisedRoutes'] ?? node['approvedRoutes']),
      texts(node['approvedRoutes'] ?? node['advertisedRoutes']),
    )
  })
  return { users, nodes, domains: value['domains'] === undefined ? domainsOf(users) : texts(value['domains']) }
}

/** Peers and the own node; a route is taken as approved when it stands in AllowedIPs. */
function fromStatus(value: Json): TailnetView {
  const profiles = isObject(value['User']) ? Object.values(value['User']).filter(isObject) : []
  const users = profiles
    .map((user): TailnetUser => ({ id: numberOf(user['ID']) ?? 0, login: textOf(user['LoginName']) ?? '', role: 'member' }))
    .filter(({ login }) => login !== 'tagged-devices')
  const peers = [
    ...(isObject(value['Self']) ? [value['Self']] : []),
    ...(isObject(value['Peer']) ? Object.values(value['Peer']).filter(isObject) : []),
  ]
  const nodes = peers.map((peer, i) => {
    const addresses = texts(peer['TailscaleIPs'])
    const routes = [...new Set([...texts(peer['AllowedIPs']), ...texts(peer['PrimaryRoutes'])])].filter(
      (text) => !addresses.includes(text.split('/')[0] ?? ''),
    )
    const user = users.find(({ id }) => id === peer['UserID'])
    return makeNode(
      i + 1,
      (textOf(peer['DNSName']) ?? '').split('.')[0] || (textOf(peer['HostName']) ?? `node-${i + 1}`),
      user,
      texts(peer['Tags']),
      addresses,
      routes,
      routes,
    )
  })
  return { users, nodes, domains: domainsOf(users) }
}

function fromHeadscale(list: readonly unknown[]): TailnetView {
  const users = new Map<number, TailnetUser>()
  const nodes = objects(list).map((node, i) => {
    const owner = isObject(node['user']) ? node['user'] : {}
    const id = numberOf(owner['id']) ?? 0
    const name = textOf(owner['name']) ?? ''
    const user: TailnetUser = { id, login: textOf(owner['email']) || (name.endsWith('@') ? name.slice(0, -1) : name), role: 'member' }
    if (id !== 0) users.set(id, user)
    const tags = [...new Set([...texts(node['tags']), ...texts(node['forced_tags']), ...texts(node['valid_tags'])])]
    return makeNode(
      numberOf(node['id']) ?? i + 1,
      textOf(node['given_name']) ?? textOf(node['name']) ?? `node-${i + 1}`,
      id === 0 ? undefined : user,
      tags,
      texts(node['ip_addresses']),
      texts(node['available_routes']),
      texts(node['approved_routes']),
    )
  })
  return { users: [...users.values()], nodes, domains: domainsOf([...users.values()]) }
}

function makeNode(
  id: number,
  name: string,
  user: TailnetUser | undefined,
  tags: readonly string[],
  addresses: readonly string[],
  advertised: readonly string[],
  approved: readonly string[],
): TailnetNode {
  const toPrefixes = (list: readonly string[]): Prefix[] =>
    list.flatMap((text) => parsePrefix(text) ?? fail(`${name}: ${text} is not a network`))
  const ips: Ip[] = addresses.flatMap((text) => parseIp(text) ?? fail(`${name}: ${text} is not an address`))
  return {
    id,
    name,
    ...(user === undefined ? {} : { user: user.id }),
    tags,
    addresses: ips,
    advertisedRoutes: toPrefixes(advertised),
    approvedRoutes: toPrefixes(approved),
    created: id,
  }
}

function fail(message: string): never {
  throw new UsageError(`inventory: ${message}`)
}

function domainsOf(users: readonly TailnetUser[]): string[] {
  return [...new Set(users.flatMap(({ login }) => (login.includes('@') ? [login.slice(login.lastIndexOf('@') + 1)] : [])))]
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function objects(value: unknown): readonly Json[] {
  return Array.isArray(value) ? value.filter(isObject) : []
}

function texts(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each): each is string => typeof each === 'string') : []
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined
}

function numberOf(value: unknown): number | undefined {
  const number = typeof value === 'string' ? Number(value) : value
  return typeof number === 'number' && Number.isSafeInteger(number) ? number : undefined
}
