import { type Ip, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import type { NodeAttributeValue, TailnetNode, TailnetService, TailnetUser, TailnetView, UserRole } from '@meshwright/policy'
import { MAX_INVENTORY_BYTES, nameOf, readBytes } from './files.ts'
import { UsageError } from './usage.ts'

type Json = { readonly [name: string]: unknown }

const FORMS = 'our own JSON ({users, nodes}), `tailscale status --json`, or `headscale nodes list -o json`'
const ROLES: readonly UserRole[] = ['owner', 'admin', 'network-admin', 'it-admin', 'billing-admin', 'auditor', 'member']

/** The user that real control servers name as the owner of tagged nodes. */
const TAGGED_DEVICES = 'tagged-devices'

/** Reads who and what is in the tailnet, in any of the three forms. @throws UsageError for anything else */
export async function readInventory(file: string): Promise<TailnetView> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder().decode(await readBytes(file, MAX_INVENTORY_BYTES)))
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`${nameOf(file)}: ${error instanceof Error ? error.message : String(error)}`)
  }
  const view = Array.isArray(value)
    ? fromHeadscale(value)
    : isObject(value) && 'Peer' in value
    ? fromStatus(value)
    : isObject(value) && Array.isArray(value['nodes'])
    ? fromOwn(value)
    : undefined
  if (view === undefined) throw new UsageError(`${nameOf(file)}: not an inventory; expected ${FORMS}`)
  unique('nodes', view.nodes)
  unique('users', view.users)
  return view
}

/** {users, nodes, domains, services}: the README shows it. `user` of a node is an id or a login. */
function fromOwn(value: Json): TailnetView {
  const users = objects(value['users']).map((user, i): TailnetUser => {
    const login = textOf(user['login']) ?? textOf(user['name']) ?? fail(`users[${i}]: login is missing`)
    const role = user['role'] === undefined ? 'member' : ROLES.find((each) => each === user['role']) ?? fail(`${login}: role ${String(user['role'])} is none of ${ROLES.join(', ')}`)
    return { id: numberOf(user['id']) ?? i + 1, login, role, ...(user['external'] === true ? { external: true } : {}) }
  })
  const nodes = objects(value['nodes']).map((node, i) => {
    const name = textOf(node['name']) ?? `node-${i + 1}`
    const user = users.find(({ id, login }) => id === node['user'] || login === node['user'])
    if (user === undefined && node['user'] !== undefined && node['user'] !== null) fail(`${name}: user ${String(node['user'])} is not among the users`)
    return makeNode({
      id: numberOf(node['id']) ?? i + 1,
      name,
      user,
      tags: texts(node['tags']),
      addresses: texts(node['addresses']),
      advertised: texts(node['advertisedRoutes'] ?? node['approvedRoutes']),
      approved: texts(node['approvedRoutes'] ?? node['advertisedRoutes']),
      created: numberOf(node['created']),
      online: typeof node['online'] === 'boolean' ? node['online'] : undefined,
      attributes: attributesOf(name, node['attributes']),
    })
  })
  const services = objects(value['services']).map((service): TailnetService => {
    const name = textOf(service['name']) ?? ''
    return { name, addresses: texts(service['addresses']).map((text) => parseIp(text) ?? fail(`${name}: ${text} is not an address`)) }
  })
  const domains = value['domains'] === undefined ? domainsOf(users) : texts(value['domains'])
  return { users, nodes, domains, ...(services.length === 0 ? {} : { services }) }
}

/** Peers and the own node; a route is taken as approved when it stands in AllowedIPs or PrimaryRoutes. */
function fromStatus(value: Json): TailnetView {
  const profiles = isObject(value['User']) ? Object.values(value['User']).filter(isObject) : []
  const users = profiles
    .map((user): TailnetUser => ({ id: numberOf(user['ID']) ?? 0, login: textOf(user['LoginName']) ?? '', role: 'member' }))
    .filter(({ login }) => login !== TAGGED_DEVICES && login !== '')
  const peers = [
    ...(isObject(value['Self']) ? [value['Self']] : []),
    ...(isObject(value['Peer']) ? Object.values(value['Peer']).filter(isObject) : []),
  ]
  const nodes = peers.map((peer, i) => {
    const addresses = texts(peer['TailscaleIPs'])
    const routes = [...new Set([...texts(peer['AllowedIPs']), ...texts(peer['PrimaryRoutes'])])].filter(
      (text) => !addresses.includes(text.split('/')[0] ?? ''),
    )
    const os = textOf(peer['OS'])
    return makeNode({
      id: numberOf(peer['NodeID']) ?? numberOf(peer['ID']) ?? i + 1,
      name: (textOf(peer['DNSName']) ?? '').split('.')[0] || (textOf(peer['HostName']) ?? `node-${i + 1}`),
      user: users.find(({ id }) => id === peer['UserID']),
      tags: texts(peer['Tags']),
      addresses,
      advertised: routes,
      approved: routes,
      created: momentOf(peer['Created']),
      online: typeof peer['Online'] === 'boolean' ? peer['Online'] : undefined,
      attributes: os === undefined || os === '' ? undefined : new Map([['node:os', { value: os.toLowerCase() }]]),
    })
  })
  return { users, nodes, domains: domainsOf(users) }
}

function fromHeadscale(list: readonly unknown[]): TailnetView {
  const users = new Map<number, TailnetUser>()
  const nodes = objects(list).map((node, i) => {
    const owner = isObject(node['user']) ? node['user'] : {}
    const id = numberOf(owner['id']) ?? 0
    const name = textOf(owner['name']) ?? ''
    const known = id !== 0 && name !== TAGGED_DEVICES
    const user: TailnetUser = { id, login: textOf(owner['email']) || (name.endsWith('@') ? name.slice(0, -1) : name), role: 'member' }
    if (known) users.set(id, user)
    return makeNode({
      id: numberOf(node['id']) ?? i + 1,
      name: textOf(node['given_name']) ?? textOf(node['name']) ?? `node-${i + 1}`,
      user: known ? user : undefined,
      tags: [...new Set([...texts(node['tags']), ...texts(node['forced_tags']), ...texts(node['valid_tags'])])],
      addresses: texts(node['ip_addresses']),
      advertised: texts(node['available_routes']),
      approved: texts(node['approved_routes']),
      created: momentOf(node['created_at']),
      // A node that is away is listed without the member.
      online: node['online'] === true,
      attributes: undefined,
    })
  })
  return { users: [...users.values()], nodes, domains: domainsOf([...users.values()]) }
}

interface NodeFacts {
  readonly id: number
  readonly name: string
  readonly user: TailnetUser | undefined
  readonly tags: readonly string[]
  readonly addresses: readonly string[]
  readonly advertised: readonly string[]
  readonly approved: readonly string[]
  readonly created: number | undefined
  readonly online: boolean | undefined
  readonly attributes: ReadonlyMap<string, NodeAttributeValue> | undefined
}

function makeNode({ id, name, user, tags, addresses, advertised, approved, created, online, attributes }: NodeFacts): TailnetNode {
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
    created: created ?? id,
    ...(online === undefined ? {} : { online }),
    ...(attributes === undefined ? {} : { attributes }),
  }
}

/** `{"node:os": "linux", "custom:x": {"value": true, "expires": "2030-01-01T00:00:00Z"}}` */
function attributesOf(name: string, value: unknown): ReadonlyMap<string, NodeAttributeValue> | undefined {
  if (value === undefined || value === null) return undefined
  if (!isObject(value)) return fail(`${name}: attributes must be an object`)
  return new Map(
    Object.entries(value).map(([key, written]): readonly [string, NodeAttributeValue] => {
      const { value: plain, expires } = isObject(written) ? { value: written['value'], expires: momentOf(written['expires']) } : { value: written, expires: undefined }
      if (typeof plain !== 'string' && typeof plain !== 'number' && typeof plain !== 'boolean') return fail(`${name}: attribute ${key} must be a string, number or boolean`)
      return [key, { value: plain, ...(expires === undefined ? {} : { expires }) }]
    }),
  )
}

/** Milliseconds since 1970 of a time as Go's JSON, or headscale's {seconds, nanos}, writes it. */
function momentOf(value: unknown): number | undefined {
  if (typeof value === 'string') {
    const ms = Date.parse(value)
    return Number.isNaN(ms) ? undefined : ms
  }
  const seconds = isObject(value) ? numberOf(value['seconds']) : undefined
  return seconds === undefined || !isObject(value) ? undefined : seconds * 1000 + Math.floor((numberOf(value['nanos']) ?? 0) / 1e6)
}

function unique(what: string, items: readonly { readonly id: number }[]): void {
  const seen = new Set<number>()
  for (const { id } of items) {
    if (seen.has(id)) fail(`two ${what} have the id ${id}`)
    seen.add(id)
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
