import { Ip, parsePrefix, type Prefix } from '@meshwright/ip'
import type { TailnetNode, TailnetUser, TailnetView } from '@meshwright/policy'
import { SeededRandom } from '@meshwright/testkit'

/** How large a tailnet and its policy are. */
export interface Size {
  readonly grants: number
  readonly groups: number
  readonly nodes: number
}

/** A policy text and the tailnet that it is for. */
export interface Workload {
  readonly text: string
  readonly tailnet: TailnetView
}

/** The large policy of the tables: what a control server does when its policy changes. */
export const LARGE_POLICY: Size = { grants: 5000, groups: 500, nodes: 1000 }
/** The large tailnet of the tables: what a control server does when a node changes. */
export const LARGE_TAILNET: Size = { grants: 1000, groups: 200, nodes: 10_000 }

/**
 * A company: of ten nodes seven are people's and three carry a tag, every fiftieth is a subnet router. Grants go from groups, people and
 * tags to tags, groups, hosts, networks and the people's own devices, with one to three port lists. The same for the same size.
 */
export function makeWorkload({ grants, groups, nodes }: Size): Workload {
  const random = new SeededRandom(grants * 7 + nodes)
  const users = Array.from({ length: Math.ceil(nodes / 3) }, (_, i): TailnetUser => ({ id: i + 1, login: `user${i}@example.com`, role: i === 0 ? 'owner' : 'member' }))
  const tags = Array.from({ length: Math.max(20, Math.ceil(groups / 4)) }, (_, i) => `tag:t${i}`)
  const groupNames = Array.from({ length: groups }, (_, i) => `group:g${i}`)
  const logins = users.map(({ login }) => login)
  const list = (from: readonly string[], most: number): string[] => [...new Set(Array.from({ length: 1 + random.below(most) }, () => random.pick(from)))]
  const source = (): string => random.pick([() => random.pick(groupNames), () => random.pick(groupNames), () => random.pick(logins), () => random.pick(tags)])()
  const destination = (): string =>
    random.pick([() => random.pick(tags), () => random.pick(tags), () => random.pick(tags), () => random.pick(groupNames), () => `host${random.below(50)}`, () => `10.${random.below(250)}.0.0/16`])()
  const port = (): string => random.pick(['tcp:443', 'tcp:22,80', 'udp:53', '8000-8999', 'tcp:5432', '*'])
  const policy = {
    groups: Object.fromEntries(groupNames.map((name) => [name, list(logins, 20)])),
    tagOwners: Object.fromEntries(tags.map((tag) => [tag, ['autogroup:admin']])),
    hosts: Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`host${i}`, `10.${i}.7.${i}`])),
    grants: Array.from({ length: grants }, (_, i) =>
      i % 250 === 0
        ? { src: ['autogroup:member'], dst: ['autogroup:self'], ip: [`tcp:${1000 + i}`] }
        : { src: Array.from({ length: 1 + random.below(3) }, source), dst: Array.from({ length: 1 + random.below(3) }, destination), ip: list([port(), port()], 2) },
    ),
  }
  return {
    text: JSON.stringify(policy, undefined, 2),
    tailnet: { users, nodes: Array.from({ length: nodes }, (_, i) => makeNode(i, random.pick(tags), random.below(users.length) + 1)), domains: ['example.com'] },
  }
}

/** Node `i`: tagged when its last digit is 0, 1 or 2, a router for every fiftieth. */
export function makeNode(i: number, tag: string, user: number): TailnetNode {
  const routes = i % 50 === 0 ? [prefix(`10.${(i / 50) % 250}.0.0/16`)] : []
  return {
    id: i + 1,
    name: `node${i}`,
    user,
    tags: i % 10 < 3 ? [tag] : [],
    addresses: [
      Ip.fromOwnedBytes(Uint8Array.of(100, 64 + (i >> 16), (i >> 8) & 255, i & 255)),
      Ip.fromOwnedBytes(Uint8Array.of(0xfd, 0x7a, 0x11, 0x5c, 0xa1, 0xe0, 0, 0, 0, 0, 0, 0, 0, i >> 16, (i >> 8) & 255, i & 255)),
    ],
    advertisedRoutes: routes,
    approvedRoutes: routes,
    created: i,
  }
}

/** A prefix that is known to be one. */
export function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(`${text} is no prefix`)
  return parsed
}
