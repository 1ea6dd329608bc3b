import type { NetworkMap } from '@meshwright/control-client'
import { parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { DEFAULT_PREFS, type Prefs } from '@meshwright/mesh'
import { describe, expect, test } from 'vitest'
import { NO_PLAN, planFor, systemHints } from './tun-plan.ts'

const prefix = (text: string): Prefix => parsePrefix(text) ?? expect.fail(text)
const prefs = (change: Partial<Prefs> = {}): Prefs => ({ ...DEFAULT_PREFS, wantRunning: true, ...change })
const OPTIONS = { localNetworks: [], keepSources: false }

function map(own: readonly string[], peers: readonly { readonly id: string; readonly addresses: readonly string[]; readonly allowed?: readonly string[] }[], dns: NetworkMap['dns'] = {}): NetworkMap {
  const node = (id: string, addresses: readonly string[], allowed: readonly string[] = []): object => ({ stableId: id, addresses: addresses.map(prefix), allowedIps: [...addresses, ...allowed].map(prefix) })
  return { self: node('self', own), peers: new Map(peers.map((peer) => [peer.id, node(peer.id, peer.addresses, peer.allowed)])), dns } as unknown as NetworkMap // the members that a plan is made of
}

const EXIT = { id: 'exit', addresses: ['100.64.0.9/32'], allowed: ['0.0.0.0/0', '::/0'] }

describe('the routes of a plan', () => {
  test('lead to peers and the DNS service always, to subnets when they are accepted', () => {
    const network = map(['100.64.0.1/32'], [{ id: 'a', addresses: ['100.64.0.2/32', 'fd7a:115c:a1e0::2/128'], allowed: ['10.1.0.0/16'] }])
    expect([...planFor(network, prefs(), OPTIONS).routes.keys()]).toEqual(['100.100.100.100/32', '100.64.0.2/32'])
    expect(planFor(network, prefs({ acceptRoutes: true }), OPTIONS).routes.get('10.1.0.0/16')).toBe('device')
  })

  test('take everything to the chosen exit node, and a family that this node is not in nowhere', () => {
    const routes = planFor(map(['100.64.0.1/32'], [EXIT]), prefs({ exitNode: 'exit' }), OPTIONS).routes
    expect([routes.get('0.0.0.0/0'), routes.get('::/0')]).toEqual(['device', 'blackhole'])
    expect(planFor(map(['100.64.0.1/32'], [EXIT]), prefs(), OPTIONS).routes.has('0.0.0.0/0')).toBe(false)
  })

  test('an exit node that is not there, or offers nothing, closes the way for both families', () => {
    for (const peers of [[], [{ ...EXIT, allowed: [] }]]) {
      const routes = planFor(map(['100.64.0.1/32', 'fd7a:115c:a1e0::1/128'], peers), prefs({ exitNode: 'exit' }), OPTIONS).routes
      expect([routes.get('0.0.0.0/0'), routes.get('::/0')]).toEqual(['blackhole', 'blackhole'])
    }
  })

  test('leave out networks next door only beside an exit node, and never what the mesh carries', () => {
    const options = { ...OPTIONS, localNetworks: ['10.9.0.0/24', '100.64.0.9/32'] }
    const routes = planFor(map(['100.64.0.1/32'], [EXIT]), prefs({ exitNode: 'exit' }), options).routes
    expect([routes.get('10.9.0.0/24'), routes.get('100.64.0.9/32')]).toEqual(['throw', 'device'])
    expect(planFor(map(['100.64.0.1/32'], [EXIT]), prefs(), options).routes.has('10.9.0.0/24')).toBe(false)
  })

  test('nothing is set without a map, and nothing when the node is to be down', () => {
    expect(planFor(undefined, prefs({ exitNode: 'exit' }), OPTIONS)).toBe(NO_PLAN)
    expect(planFor(map(['100.64.0.1/32'], [EXIT]), prefs({ wantRunning: false, exitNode: 'exit' }), OPTIONS)).toBe(NO_PLAN)
  })
})

test('sources are hidden where routes are offered, unless they are to be kept', () => {
  const offering = prefs({ advertiseRoutes: [prefix('10.1.0.0/16')] })
  const masquerade = (given: Prefs, keepSources: boolean): boolean => planFor(map(['100.64.0.1/32'], []), given, { ...OPTIONS, keepSources }).masquerade
  expect([masquerade(prefs(), false), masquerade(offering, false), masquerade(offering, true)]).toEqual([false, true, false])
})

test('the system asks this node for the names of the mesh, for all names where the map names servers, and not at all where that is not wanted', () => {
  const dns = { Proxied: true, Domains: ['lab.test.'], Routes: { 'corp.test.': [] } }
  expect(planFor(map(['100.64.0.1/32'], [], dns), prefs(), OPTIONS).dns).toEqual({ servers: ['100.100.100.100'], search: ['lab.test'], domains: ['corp.test'], everything: false })
  expect(planFor(map(['fd7a:115c:a1e0::1/128'], [], { ...dns, Resolvers: [{ Addr: '1.1.1.1' }] }), prefs(), OPTIONS).dns).toMatchObject({ servers: ['fd7a:115c:a1e0::53'], everything: true })
  expect(planFor(map(['100.64.0.1/32'], [], dns), prefs({ acceptDns: false }), OPTIONS).dns).toBeUndefined()
})

test('settings of the system that stand in the way are named with their remedy', () => {
  const files: Readonly<Record<string, string>> = { '/proc/sys/net/ipv4/ip_forward': '0\n', '/proc/sys/net/ipv4/conf/all/rp_filter': '1\n' }
  const read = (file: string): string => files[file] ?? expect.fail('no such file')
  expect(systemHints(prefs(), read)).toEqual([])
  expect(systemHints(prefs({ advertiseRoutes: [prefix('10.1.0.0/16')] }), read)).toEqual([expect.stringContaining('sysctl -w net.ipv4.ip_forward=1')])
  expect(systemHints(prefs({ exitNode: parseIp('100.64.0.9')?.key ?? '' }), read)).toEqual([expect.stringContaining('rp_filter=2')])
})
