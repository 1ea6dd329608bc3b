import { parseIp, parsePrefix } from '@meshwright/ip'
import { describe, expect, test } from 'vitest'
import {
  checkPolicy,
  compilePolicy,
  type CompiledPolicy,
  diffAccess,
  explainAccess,
  isPolicyError,
  parsePolicy,
  runPolicyTests,
  type TailnetNode,
  type TailnetView,
} from './index.ts'

interface NodeOptions extends Partial<Omit<TailnetNode, 'advertisedRoutes'>> {
  readonly routes?: readonly string[]
}

function node(id: number, options: NodeOptions = {}): TailnetNode {
  const { routes = [], ...rest } = options
  const prefixes = routes.flatMap((text) => parsePrefix(text) ?? [])
  return {
    id,
    name: `n${id}`,
    tags: [],
    addresses: [ip(`100.64.1.${id * 2}`), ip(`fd7a:115c:a1e0::${id * 2}`)],
    advertisedRoutes: prefixes,
    approvedRoutes: prefixes,
    created: id,
    ...rest,
  }
}

function ip(text: string) {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

const TAILNET: TailnetView = {
  users: [
    { id: 1, login: 'alice@example.com', role: 'owner' },
    { id: 2, login: 'bob', role: 'member' },
  ],
  domains: ['example.com'],
  nodes: [
    node(1, { user: 1 }),
    node(2, { user: 2 }),
    node(3, { tags: ['tag:web'] }),
    node(4, { tags: ['tag:router'], routes: ['10.0.0.0/16', '0.0.0.0/0', '::/0'] }),
    node(5, { tags: ['tag:router'], routes: ['10.0.0.0/16'] }),
  ],
}

const TAGS = '"tagOwners": {"tag:web": ["bob@"], "tag:router": ["tag:web"]}'

function compile(body: string, tailnet: TailnetView = TAILNET): CompiledPolicy {
  const { policy, diagnostics } = parsePolicy(`{${TAGS}, ${body}}`)
  if (policy === undefined) throw new Error(diagnostics[0]?.message)
  return compilePolicy(policy, tailnet)
}

function acl(src: string, dst: string): string {
  return `"acls": [{"action": "accept", "src": ["${src}"], "dst": ["${dst}"]}]`
}

describe('filters', () => {
  test('a user reaches a tag by both families; nobody else is told', () => {
    const compiled = compile(acl('alice@example.com', 'tag:web:443'))
    expect(compiled.filterFor(3)).toEqual([
      {
        SrcIPs: ['100.64.1.2', 'fd7a:115c:a1e0::2'],
        DstPorts: ['100.64.1.6', 'fd7a:115c:a1e0::6'].map((IP) => ({ IP, Ports: { First: 443, Last: 443 } })),
      },
    ])
    expect(compiled.filterFor(1)).toEqual([])
    expect(compiled.peersFor(3).map((peer) => peer.node.id)).toEqual([1])
  })

  test('a login that ends with @ means the user of that bare name', () => {
    expect(compile(acl('bob@', 'tag:web:22')).filterFor(3)[0]?.SrcIPs).toEqual(['100.64.1.4', 'fd7a:115c:a1e0::4'])
  })

  test('no section allows everything, an empty one nothing', () => {
    expect(compile('"ssh": []').filterFor(1)).toHaveLength(1)
    expect(compile('"acls": []').filterFor(1)).toEqual([])
    expect(compile('"acls": []').peersFor(1)).toEqual([])
  })

  test('autogroup:self opens a user the own devices only, and tagged nodes nothing', () => {
    const compiled = compile(acl('autogroup:member', 'autogroup:self:*'))
    expect(compiled.filterFor(1)[0]?.SrcIPs).toEqual(['100.64.1.2', 'fd7a:115c:a1e0::2'])
    expect(compiled.filterFor(3)).toEqual([])
  })

  test('an ipset takes away what it removes', () => {
    const compiled = compile(
      `"ipsets": {"ipset:lan": ["add 10.0.0.0/24", "remove 10.0.0.128-10.0.0.255"]}, ${acl('alice@example.com', 'ipset:lan:*')}`,
    )
    expect(compiled.filterFor(5)[0]?.DstPorts?.[0]?.IP).toBe('10.0.0.0/25')
  })
})

describe('routes', () => {
  test('a route leads over the router created first, and over the next while that one is away', () => {
    const body = acl('alice@example.com', '10.0.0.0/16:*')
    const over = (compiled: CompiledPolicy): number[] =>
      compiled
        .peersFor(1)
        .filter((peer) => peer.subnetRoutes.length > 0)
        .map((peer) => peer.node.id)
    const compiled = compile(body)
    expect(over(compiled)).toEqual([4])
    const { policy, affected } = compiled.update({
      type: 'nodeSet',
      node: node(4, { tags: ['tag:router'], routes: ['10.0.0.0/16'], online: false }),
    })
    expect(over(policy)).toEqual([5])
    expect(over(compiled)).toEqual([4])
    expect(affected.has(1)).toBe(true)
  })

  test('exit routes are for those who may use the internet', () => {
    const compiled = compile(acl('bob@', 'autogroup:internet:*'))
    expect(compiled.peersFor(2).map((peer) => peer.exitRoutes.length)).toEqual([2])
    expect(compiled.peersFor(1)).toEqual([])
  })

  test('only a node that leads into the internet is told to let it be asked', () => {
    const compiled = compile(acl('bob@', 'autogroup:internet:*'))
    expect(compiled.filterFor(4)).toHaveLength(1)
    for (const id of [1, 2, 3, 5]) expect([id, compiled.filterFor(id)]).toEqual([id, []])
  })

  test('a grant by way of a tag is for those of its routers that serve the network, and for no others', () => {
    const tailnet = { ...TAILNET, nodes: [...TAILNET.nodes, node(6, { tags: ['tag:router'] }), node(7, { tags: ['tag:router'], routes: ['10.1.0.0/16'] })] }
    const compiled = compile('"grants": [{"src": ["alice@example.com"], "dst": ["10.0.0.0/16"], "ip": ["*"], "via": ["tag:router"]}]', tailnet)
    expect([4, 5, 6, 7].map((id) => compiled.filterFor(id).length)).toEqual([1, 1, 0, 0])
    expect(compiled.peersFor(1).map((peer) => peer.node.id)).not.toContain(6)
    expect(compiled.peersFor(7)).toEqual([])
  })

  test('an approver of a prefix approves what lies in it; exit routes have approvers of their own', () => {
    const compiled = compile('"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:router"], "0.0.0.0/0": ["tag:web"]}}')
    const routes = TAILNET.nodes[3]?.advertisedRoutes ?? []
    expect(compiled.approvedRoutes(4, routes).map(String)).toHaveLength(1)
    expect(compiled.approvedRoutes(3, routes)).toHaveLength(1)
  })
})

describe('tags, attributes and postures', () => {
  test('owners own tags through tags, and the owner of the tailnet owns all', () => {
    const compiled = compile('"acls": []')
    expect([1, 2].map((user) => compiled.tagOwnersAllow(user, 'tag:router'))).toEqual([true, true])
    expect(compiled.tagOwnersAllow(1, 'tag:unknown')).toBe(false)
  })

  test('attributes reach the nodes that a target selects', () => {
    const compiled = compile('"nodeAttrs": [{"target": ["tag:web"], "attr": ["funnel", "disable-ipv4"]}]')
    expect([...compiled.attrsFor(3).keys()]).toContain('https://tailscale.com/cap/funnel-ports?ports=443,8443,10000')
    expect(compiled.addressesFor(3).map(String)).toEqual(['fd7a:115c:a1e0::6'])
    expect(compiled.attrsFor(1).size).toBe(0)
  })

  test('a posture holds until its attribute expires, and the next change is known', () => {
    const tailnet = {
      ...TAILNET,
      nodes: TAILNET.nodes.map((each) =>
        each.id === 1 ? { ...each, attributes: new Map([['custom:ok', { value: true, expires: 5000 }]]) } : each,
      ),
    }
    const body = `"postures": {"posture:ok": ["custom:ok == true"]}, "grants": [{"src": ["autogroup:member"], "dst": ["tag:web"], "ip": ["*"], "srcPosture": ["posture:ok"]}]`
    const compiled = compile(body, tailnet)
    expect(compiled.filterFor(3, 4999)[0]?.SrcIPs).toEqual(['100.64.1.2', 'fd7a:115c:a1e0::2'])
    expect(compiled.filterFor(3, 5000)).toEqual([])
    expect(compiled.filterFor(3)).toEqual([])
    expect([compiled.nextChange(0), compiled.nextChange(5000)]).toEqual([5000, undefined])
  })
})

test('a posture narrows nodes and leaves the networks behind routers alone', () => {
  const compiled = compile(`"postures": {"posture:ok": ["custom:ok"]}, "defaultSrcPosture": ["posture:ok"], ${acl('*', 'tag:web:*')}`)
  expect(compiled.filterFor(3)[0]?.SrcIPs).toEqual(['10.0.0.0/16'])
})

describe('SSH', () => {
  test('checks come before accepts, and root only where it is named', () => {
    const compiled = compile(
      '"ssh": [{"action": "accept", "src": ["bob@"], "dst": ["tag:web"], "users": ["autogroup:nonroot"]}, {"action": "check", "src": ["bob@"], "dst": ["tag:web"], "users": ["root"]}]',
    )
    expect(compiled.sshFor(3).map(({ sshUsers, action }) => [sshUsers, action.accept ?? 'check'])).toEqual([
      [{ root: 'root' }, 'check'],
      [{ root: '', '*': '=' }, true],
    ])
    expect(compiled.sshFor(1)).toEqual([])
  })
})

describe('tests of the policy', () => {
  test('a failed test says why', () => {
    const compiled = compile(
      `${acl(
        'alice@example.com',
        'tag:web:443',
      )}, "tests": [{"src": "alice@example.com", "accept": ["tag:web:443", "tag:web:80"]}, {"src": "bob@", "deny": ["tag:web:443"]}]`,
    )
    expect(runPolicyTests(compiled).map(({ passed, failures }) => [passed, failures.map(({ message }) => message)])).toEqual([
      [false, ['alice@example.com does not reach tag:web:80']],
      [true, []],
    ])
    expect(checkPolicy(compiled.policy, TAILNET).map(({ message }) => message)).toEqual(['test(s) failed'])
  })
})

describe('explaining and comparing', () => {
  const connection = { source: ip('100.64.1.4'), destination: ip('100.64.1.6'), protocol: 6, port: 443 }

  test('yes comes with every statement, no with what the nearest ones lack', () => {
    const groups = '"groups": {"group:ops": ["bob@"]}'
    const yes = explainAccess(compile(`${groups}, ${acl('group:ops', 'tag:web:443')}`), connection)
    expect(yes.allowed).toBe(true)
    expect(
      yes.contributions.map(({ sources, receivers }) => [sources[0]?.text, sources[0]?.through.length, receivers.map(({ id }) => id)]),
    ).toEqual([['group:ops', 1, [3]]])
    const no = explainAccess(compile(`${groups}, ${acl('group:ops', 'tag:web:80')}`), connection)
    expect(no.allowed).toBe(false)
    expect(no.nearest.map(({ lacks }) => lacks)).toEqual([['port']])
  })

  test('a difference names people and machines; equal policies have none', () => {
    const before = compile(acl('bob@', 'tag:web:80-90'))
    const after = compile('"grants": [{"src": ["bob@"], "dst": ["tag:web"], "ip": ["85-95"]}]')
    const tcp = diffAccess(before, after).filter(({ what }) => what === '6')
    expect(tcp.map(({ change, source, destination, detail }) => [change, source, destination, detail])).toEqual([
      ['lost', 'bob', 'tag:web', '80-84'],
      ['gained', 'bob', 'tag:web', '91-95'],
    ])
    expect(diffAccess(before, before)).toEqual([])
  })
})

test('asking for a node that is not there is an error with a code', () => {
  try {
    compile('"acls": []').filterFor(99)
    expect.unreachable()
  } catch (error) {
    expect(isPolicyError(error, 'POLICY_NODE_UNKNOWN')).toBe(true)
  }
})
