import { type Ip, parseIp, parsePrefix } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { compilePolicy, type CompiledPolicy, explainAccess, type Explanation, parsePolicy, untestedStatements } from './index.ts'

const TEXT = `{
  "groups": {"group:dev": ["alice@example.com", "bob@example.com"]},
  "hosts": {"lan": "10.7.0.0/16"},
  "tagOwners": {"tag:web": [], "tag:r": []},
  "postures": {"posture:new": ["node:tsVersion >= '1.40'"]},
  "grants": [
    {"src": ["group:dev"], "dst": ["tag:web"], "ip": ["tcp:443"]},
    {"src": ["autogroup:member"], "dst": ["lan"], "ip": ["tcp:22"], "via": ["tag:r"]},
    {"src": ["bob@example.com"], "dst": ["tag:web"], "ip": ["udp:53"], "srcPosture": ["posture:new"]},
    {"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},
    {"src": ["tag:web"], "dst": ["tag:r"], "app": {"example.com/cap": [{}]}},
  ],
  "ssh": [{"action": "check", "src": ["group:dev"], "dst": ["tag:web"], "users": ["deploy", "autogroup:nonroot"]}],
  "tests": [{"src": "alice@example.com", "accept": ["tag:web:443"], "deny": ["tag:web:80"]}],
  "sshTests": [{"src": "alice@example.com", "dst": ["tag:web"], "check": ["deploy"]}],
}`
const version = (value: string): ReadonlyMap<string, { readonly value: string }> => new Map([['node:tsVersion', { value }]])

function compile(text: string = TEXT): CompiledPolicy {
  const { policy, diagnostics } = parsePolicy(text)
  if (policy === undefined) throw new Error(JSON.stringify(diagnostics))
  const node = (id: number, name: string, owner: { user?: number; tags: string[] }, routes: string[] = []) => {
    const prefixes = routes.flatMap((text) => parsePrefix(text) ?? [])
    const addresses = [`100.64.0.${id}`, `fd7a:115c:a1e0::${id}`].flatMap((text) => parseIp(text) ?? [])
    return { id, name, ...owner, addresses, advertisedRoutes: prefixes, approvedRoutes: prefixes, created: id }
  }
  return compilePolicy(policy, {
    users: [
      { id: 1, login: 'alice@example.com', role: 'member' },
      { id: 2, login: 'bob@example.com', role: 'member' },
    ],
    nodes: [
      node(1, 'laptop', { user: 1, tags: [] }),
      { ...node(2, 'phone', { user: 2, tags: [] }), attributes: version('1.36') },
      node(3, 'web', { tags: ['tag:web'] }),
      node(4, 'router', { tags: ['tag:r'] }, ['10.7.0.0/16']),
      { ...node(5, 'desk', { user: 2, tags: [] }), attributes: version('1.50') },
    ],
    domains: ['example.com'],
  })
}

function explain(from: string, to: string, port: number, protocol: number = 6): Explanation {
  const [source, destination] = [parseIp(from), parseIp(to)]
  if (source === undefined || destination === undefined) throw new Error('no address')
  return explainAccess(compile(), { source, destination, protocol, port })
}

const at = ({ line, column }: { readonly line: number; readonly column: number }): string => `${line}:${column}`

test('a yes names the statement, its names, and the member of the group, each by line and column', () => {
  const { allowed, contributions, ssh } = explain('100.64.0.1', '100.64.0.3', 443)
  expect([allowed, contributions.length]).toEqual([true, 1])
  const [only] = contributions
  expect(only && [at(only.at), only.sources.map((each) => [each.text, at(each.at), each.through.map((place) => [place.text, at(place)])]), only.destinations.map((each) => [each.text, at(each.at)])]).toEqual([
    '7:5',
    [['group:dev', '7:14', [['alice@example.com', '2:28']]]],
    [['tag:web', '7:36']],
  ])
  expect(ssh.map((each) => [at(each.at), each.action, each.logins, each.node.name])).toEqual([['13:11', 'check', ['deploy', 'autogroup:nonroot'], 'web']])
})

test('into a network: the host, the tag of the router, the router and the route that leads there', () => {
  const { contributions, routes } = explain('100.64.0.1', '10.7.1.2', 22)
  expect(contributions.map((each) => [at(each.at), each.destinations.map(({ through }) => through.map((place) => [place.text, at(place)])), each.via, each.receivers.map(({ name }) => name)])).toEqual([
    ['8:5', [[['10.7.0.0/16', '3:13']]], ['tag:r'], ['router']],
  ])
  expect(routes.map(({ node, route }) => [node.name, route.bits])).toEqual([['router', 16]])
})

test('own devices are reached by autogroup:self, and a posture that is met is named', () => {
  expect(explain('100.64.0.2', '100.64.0.5', 8080).contributions.map((each) => each.destinations.map(({ text }) => text))).toEqual([['autogroup:self']])
  expect(explain('100.64.0.5', '100.64.0.3', 53, 17).contributions.map((each) => each.postures.map((place) => [place.text, at(place)]))).toEqual([[['posture:new', '5:16']]])
})

test('a no names the nearest statements and, in words, what each lacks', () => {
  const reasons = (explanation: Explanation): readonly (readonly [string, readonly string[], readonly string[]])[] => explanation.nearest.map((each) => [at(each.at), each.lacks, each.reasons])
  expect(reasons(explain('100.64.0.1', '100.64.0.3', 80))[0]).toEqual(['7:5', ['port'], ['80: it allows 443']])
  expect(reasons(explain('100.64.0.2', '100.64.0.3', 53, 17))).toContainEqual(['9:5', ['posture'], ["phone (bob@example.com) does not meet posture:new (node:tsVersion >= '1.40': it is 1.36)"]])
  expect(reasons(explain('100.64.0.4', '100.64.0.3', 443))[0]).toEqual(['7:5', ['source'], ['router (tag:r) is not group:dev']])
  expect(reasons(explain('100.64.0.3', '100.64.0.4', 22))[0]).toEqual(['11:5', ['protocol'], ['tcp: it opens no port, it grants capabilities only']])
  expect(reasons(explain('100.64.0.1', '100.64.0.2', 22))).toContainEqual(['10:5', ['destination'], ['phone (bob@example.com) is not autogroup:self']])
})

test('statements that no test exercises are listed, ssh entries too', () => {
  const found = untestedStatements(compile()).map(({ section, index, untestable }) => [section, index, untestable])
  expect(found).toEqual([['grants', 1, false], ['grants', 2, false], ['grants', 3, false], ['grants', 4, true]])
  const without = untestedStatements(compile(TEXT.replace('"check": ["deploy"]', '"deny": ["root"]')))
  expect(without.map(({ section }) => section)).toEqual(['grants', 'grants', 'grants', 'grants', 'ssh'])
})

test('who is told of one destination of a statement does not let in what only another one names', () => {
  const address = (text: string): Ip => {
    const ip = parseIp(text)
    if (ip === undefined) throw new Error(text)
    return ip
  }
  const none = { advertisedRoutes: [], approvedRoutes: [], created: 0 }
  const served = ['10.0.0.0/16', '0.0.0.0/0'].flatMap((text) => parsePrefix(text) ?? [])
  const router = { id: 1, name: 'router', tags: ['tag:r'], addresses: [address('100.64.0.1')], created: 0, advertisedRoutes: served, approvedRoutes: served }
  const client = { id: 2, name: 'client', tags: ['tag:c'], addresses: [address('100.64.0.2')], ...none }
  const { policy } = parsePolicy(`{"tagOwners": {"tag:r": [], "tag:c": []}, "ipsets": {"ipset:a": ["10.0.0.0/8", "8.8.4.4"]},
    "acls": [{"action": "accept", "src": ["tag:c"], "dst": ["8.8.8.8:443", "10.0.0.0/8:443", "ipset:a:22"]}]}`)
  if (policy === undefined) throw new Error('refused')
  const compiled = compilePolicy(policy, { users: [], nodes: [router, client], domains: [] })
  const isAllowed = (to: string, port: number): boolean =>
    explainAccess(compiled, { source: address('100.64.0.2'), destination: address(to), protocol: 6, port }).allowed
  expect(compiled.filterFor(1).flatMap(({ DstPorts = [] }) => DstPorts.map(({ IP, Ports }) => `${IP}:${Ports.First}`))).toEqual(['10.0.0.0/8:443', '10.0.0.0/8:22'])
  expect([isAllowed('10.0.0.7', 443), isAllowed('10.0.0.7', 22), isAllowed('8.8.8.8', 443), isAllowed('8.8.4.4', 22)]).toEqual([true, true, false, false])
})
