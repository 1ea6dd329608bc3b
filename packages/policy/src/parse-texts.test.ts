import { parsePrefix } from '@meshwright/ip'
import { describe, expect, test } from 'vitest'
import { formatDuration, parseDuration } from './duration.ts'
import { quoteText } from './hujson/quote.ts'
import { patchHuJson } from './hujson/index.ts'
import { checkPolicy, compilePolicy, type Diagnostic, parsePolicy, runPolicyTests, type TailnetView } from './index.ts'

const DEFINED = '"tagOwners": {"tag:a": []}, "hosts": {"all": "0.0.0.0/0", "lan": "10.0.0.0/8"}, "groups": {"group:g": ["a@b.c"]}'
const acl = (dst: string, more: string = ''): string => `{${DEFINED}, "acls": [{"action": "accept", "src": ["*"], "dst": [${JSON.stringify(dst)}]${more}}]}`
const grant = (ip: string): string => `{${DEFINED}, "grants": [{"src": ["*"], "dst": ["tag:a"], "ip": [${JSON.stringify(ip)}]}]}`
const messages = (text: string): readonly string[] => parsePolicy(text).diagnostics.map(({ message }) => message)

describe('ports and protocols, in the words of tailscale.com/tailcfg and tailscale.com/types/ipproto', () => {
  test.each([
    ['tag:a', 'dst="tag:a": port range "a": invalid first integer'],
    ['*', 'dst="*": hostport must contain a colon (":")'],
    ['*:', 'dst="*:": invalid port list: ""'],
    ['*:1-2-3', 'dst="*:1-2-3": port range "1-2-3": too many dashes(-)'],
    ['*:5-', 'dst="*:5-": port range "5-": invalid last integer'],
    ['*:-5', 'dst="*:-5": port range "-5": invalid first integer'],
    ['*:9-5', 'dst="*:9-5": port range "9-5": first port must be >= last port'],
    ['*:0-5', `dst="*:0-5": port range "0-5": first port must be >0, or use '*' for wildcard`],
    ['*:22,SSH', 'dst="*:22,SSH": port range "ssh": invalid first integer'],
    ['*:65536', 'dst="*:65536": port range "65536": invalid first integer'],
  ])('destination %s', (dst, message) => {
    expect(messages(acl(dst))).toEqual([message])
  })

  test.each([
    ['', 'empty string'],
    [':80', 'empty protocol'],
    ['tcp,udp:80', 'host cannot contain a comma (",")'],
    ['tcp:', 'invalid port list: ""'],
    ['tpc:80', 'proto name "tpc" not known; use protocol number 0-255'],
    ['tcp:80:90', 'proto name "tcp:80" not known; use protocol number 0-255'],
    ['icmp', 'port range "icmp": invalid first integer'],
    ['256:*', 'protocol number out of range (0-255): 256'],
    ['06:*', 'leading 0 not permitted in protocol number: "06"'],
  ])('ip %s', (ip, message) => {
    expect(messages(grant(ip))).toEqual([message])
  })

  test.each(['TCP', 'icmpv6', 'tsmp', 'DCCP', 'ip-in-ip', '255'])('protocol %s is read', (proto) => {
    expect([...messages(grant(`${proto}:*`)), ...messages(acl('*:*', `, "proto": "${proto}"`))]).toEqual([])
  })
})

test.each([
  ['5', 'time: missing unit in duration "5"'],
  ['5d', 'time: unknown unit "d" in duration "5d"'],
  ['é', 'time: invalid duration "\\xc3\\xa9"'],
  ['9223372036854775808ns', 'time: invalid duration "9223372036854775808ns"'],
  ['1h1h', '2h0m0s'],
  ['1.0000000001h', '1h0m0.00000036s'],
  ['-.5s', '-500ms'],
  ['1us', '1µs'],
])('the duration %s is what Go makes of it', (text, shown) => {
  const { ns, error } = parseDuration(text)
  expect(error ?? formatDuration(ns ?? 0n)).toBe(shown)
})

test('names are quoted as Go quotes them, whatever Unicode the engine knows', () => {
  expect(quoteText('a"b\\c\n\u0001\u007f\u00a0é\u2028\u{32a4a}\u{1fae9}😀')).toBe('"a\\"b\\\\c\\n\\x01\\x7f\\u00a0é\\u2028\\U00032a4a\\U0001fae9😀"')
  expect(messages('{"acls": [{"action": "accept", "src": ["tag:\\u2028x"], "dst": ["*:*"]}]}')).toEqual(['src=tag not found: "tag:\\u2028x"'])
})

describe('old names', () => {
  test('stand for the new ones', () => {
    const old = parsePolicy(`{${DEFINED}, "ACLs": [{"Action": "accept", "Users": ["tag:a"], "Ports": ["*:22"]}], "Tests": [{"User": "10.0.0.1", "Allow": ["tag:a:22"]}]}`).policy
    const now = parsePolicy(`{${DEFINED}, "acls": [{"action": "accept", "src": ["tag:a"], "dst": ["*:22"]}], "tests": [{"src": "10.0.0.1", "accept": ["tag:a:22"]}]}`).policy
    expect(old?.statements[0]?.destinations.map(({ alias, ports }) => [alias, ports])).toEqual(now?.statements[0]?.destinations.map(({ alias, ports }) => [alias, ports]))
    expect(old?.tests.map(({ src, accept }) => [src, accept.map(({ value }) => value)])).toEqual([['10.0.0.1', ['tag:a:22']]])
  })

  test('beside the new ones they are refused: one of the two would be ignored', () => {
    expect(messages('{"acls": [{"action": "accept", "src": ["a@b.c"], "users": ["*"], "dst": ["*:*"], "ports": ["*:*"]}], "tests": [{"src": "a@b.c", "user": "a@b.c", "allow": [], "accept": []}]}')).toEqual([
      'only one of "src" and "users" may be specified',
      'only one of "dst" and "ports" may be specified',
      'only one of "src" and "user" may be specified',
      'only one of "accept" and "allow" may be specified',
    ])
    const both = '{"grants": [{"src": ["autogroup:member", "autogroup:members"], "dst": ["*"], "ip": ["*"]}]}'
    expect(messages(both)).toEqual(['cannot use both autogroup:member and autogroup:members'])
    expect(messages(patchPolicyText(both, parsePolicy(both).diagnostics))).toEqual([])
    expect(messages('{"grants": [{"src": ["autogroup:members"], "dst": ["*"], "ip": ["*"]}]}')).toEqual([])
  })
})

test('services, relay maps and app connectors are validated', () => {
  expect(messages(`{"grants": [{"src": ["*"], "dst": ["svc:", "svc:a_b", "svc:web-1"], "ip": ["*"]}]}`)).toEqual(['dst="svc:": "svc:" is not a valid service name', 'dst="svc:a_b": "svc:a_b" is not a valid service name'])
  expect(messages('{"derpMap": {"OmitDefaultRegions": 1, "Regions": {"x": null, "1": null, "2": [], "3": {}}, "Other": 1}}')).toEqual([
    'unknown field: "Other"',
    'derpMap.OmitDefaultRegions must be true or false',
    'derpMap.Regions["x"]: regions are named by number',
    'derpMap.Regions["2"] must be an object, or null to leave it out',
  ])
  const connectors = (value: string): readonly string[] => messages(`{${DEFINED}, "nodeAttrs": [{"target": ["*"], "app": {"tailscale.com/app-connectors": [${value}]}}]}`)
  expect(connectors('{"name": "a", "connectors": ["tag:a", "*"], "domains": ["example.com"], "routes": ["10.0.0.0/8"]}')).toEqual([])
  expect(connectors('{"nam": "a", "connectors": ["tag:b", "a@b.c"], "routes": ["10/8"]}')).toEqual(['unknown field: "nam"', 'tag not found: "tag:b"', 'app connector "a@b.c": not a tag or "*"', 'app connector route "10/8": invalid prefix'])
})

const none = { advertisedRoutes: [], approvedRoutes: [], created: 0 }

test('shared devices are autogroup:shared and not members; no posture asks them for anything; services are reached where they are served', () => {
  const tailnet: TailnetView = {
    users: [
      { id: 1, login: 'a@b.c', role: 'owner' },
      { id: 2, login: 'x@other.org', role: 'member', external: true },
    ],
    nodes: [
      { id: 1, name: 'mine', user: 1, tags: [], addresses: [address('100.64.0.1')], ...none },
      { id: 2, name: 'theirs', user: 2, tags: [], addresses: [address('100.64.0.2')], ...none },
      { id: 3, name: 'server', tags: ['tag:a'], addresses: [address('100.64.0.3')], ...none, advertisedRoutes: [single('100.100.1.1')], approvedRoutes: [single('100.100.1.1')] },
    ],
    services: [{ name: 'svc:web', addresses: [address('100.100.1.1')] }],
    domains: ['b.c'],
  }
  const rules = (body: string): unknown => {
    const { policy, diagnostics } = parsePolicy(`{${DEFINED}, "postures": {"posture:p": ["node:os == 'linux'"]}, ${body}}`)
    if (policy === undefined) throw new Error(diagnostics[0]?.message)
    return compilePolicy(policy, tailnet)
      .filterFor(3)
      .map(({ SrcIPs, DstPorts }) => [SrcIPs.join(), DstPorts?.map(({ IP }) => IP).join()])
  }
  expect(rules('"grants": [{"src": ["autogroup:shared"], "dst": ["tag:a"], "ip": ["*"]}, {"src": ["autogroup:member"], "dst": ["svc:web"], "ip": ["443"]}]')).toEqual([
    ['100.64.0.2', '100.64.0.3'],
    ['100.64.0.1', '100.100.1.1'],
  ])
  expect(rules('"defaultSrcPosture": ["posture:p"], "grants": [{"src": ["a@b.c", "x@other.org"], "dst": ["tag:a"], "ip": ["*"]}]')).toEqual([['100.64.0.2', '100.64.0.3']])
  const tested = parsePolicy(`{${DEFINED}, "grants": [{"src": ["a@b.c"], "dst": ["svc:web"], "ip": ["443"]}], "tests": [{"src": "a@b.c", "accept": ["svc:web:443"], "deny": ["svc:web:80"]}]}`).policy
  if (tested === undefined) throw new Error('refused')
  expect(checkPolicy(tested, tailnet)).toEqual([])
})

test('tests see just the attributes that they give the source: what the devices have at the moment does not matter', () => {
  const tailnet: TailnetView = {
    users: [{ id: 1, login: 'a@b.c', role: 'owner' }],
    nodes: [
      { id: 1, name: 'mine', user: 1, tags: [], addresses: [address('100.64.0.1')], ...none, attributes: new Map([['node:os', { value: 'linux' }]]) },
      { id: 3, name: 'server', tags: ['tag:a'], addresses: [address('100.64.0.3')], ...none },
    ],
    domains: ['b.c'],
  }
  const { policy } = parsePolicy(`{${DEFINED}, "postures": {"posture:p": ["node:os == 'macos'"]},
    "grants": [{"src": ["a@b.c"], "dst": ["tag:a"], "ip": ["*"], "srcPosture": ["posture:p"]}],
    "ssh": [{"action": "accept", "src": ["a@b.c"], "dst": ["tag:a"], "users": ["root"], "srcPosture": ["posture:p"]}],
    "tests": [{"src": "a@b.c", "srcPostureAttrs": {"node:os": "macos"}, "accept": ["tag:a:1"]}, {"src": "a@b.c", "deny": ["tag:a:1"]}, {"src": "a@b.c", "accept": ["tag:a:1"]}],
    "sshTests": [{"src": "a@b.c", "srcPostureAttrs": {"node:os": "macos"}, "dst": ["tag:a"], "accept": ["root"]}, {"src": "a@b.c", "dst": ["tag:a"], "deny": ["root"]}]}`)
  if (policy === undefined) throw new Error('refused')
  expect(runPolicyTests(compilePolicy(policy, tailnet)).map(({ passed }) => passed)).toEqual([true, true, false, true, true])
})

function patchPolicyText(text: string, diagnostics: readonly Diagnostic[]): string {
  const patched = patchHuJson(text, JSON.stringify(diagnostics.flatMap(({ fix }) => fix ?? [])))
  return patched.ok ? patched.value : text
}

function address(text: string): TailnetView['nodes'][number]['addresses'][number] {
  return single(text).ip
}

function single(text: string): TailnetView['nodes'][number]['advertisedRoutes'][number] {
  const prefix = parsePrefix(text)
  if (prefix === undefined) throw new Error(text)
  return prefix
}
