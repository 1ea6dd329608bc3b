import type { SeededRandom } from '@meshwright/testkit'

type Json = unknown

const WORDS = [
  '*', '', ' ', 'accept', 'check', 'deny', 'Accept', 'alice@example.com', 'bob@', 'nobody@nowhere.org', 'user:*@example.com', 'user:*@gone.org', 'group:ops', 'group:gone', 'group:', 'tag:web', 'tag:gone', 'tag:', 'tag:1x', 'Tag:web',
  'autogroup:member', 'autogroup:members', 'autogroup:tagged', 'autogroup:self', 'autogroup:internet', 'autogroup:shared', 'autogroup:danger-all', 'autogroup:admin', 'autogroup:owner', 'autogroup:nonroot', 'autogroup:gone',
  'lan', 'gone', 'host:lan', 'ipset:outer', 'ipset:gone', 'svc:web', '10.0.0.0/8', '10.0.0.5/8', '10.0.0.1', '10.0.0.300', '0.0.0.0/0', '::/0', 'fd00::1', '[fd00::1]', '10.0.0.1-10.0.0.9', 'localpart:*@example.com', 'root', 'posture:mac', 'posture:gone',
  'tcp', 'udp', 'icmp', '6', '0', '06', '256', 'tcp:22', 'tcp:*', 'icmp:*', 'icmp:80', '22', '80-443', '443-80', '80,443', '0-80', '65536', 'x', '*:*', '*:22', 'tag:web:22', 'tag:web:*', 'tag:web:ssh', 'lan:80', 'autogroup:self:*', 'autogroup:internet:*', '[fd00::1]:22', 'fd00::1:22',
  '12h', '0s', '-1m', '169h', 'always', 'abc', '__proto__', 'constructor', '%bogus%', 'e\u0301', '\u{1f600}', 'funnel', 'disable-ipv4',
] as const
const KEYS = ['acls', 'grants', 'ssh', 'groups', 'hosts', 'tagOwners', 'src', 'dst', 'ip', 'app', 'via', 'action', 'proto', 'users', 'ports', 'srcPosture', 'checkPeriod', 'acceptEnv', 'accept', 'deny', 'target', 'attr', 'ipPool', 'routes', 'exitNode', '#comment', 'unknown', '__proto__', 'tests', 'sshTests', 'nodeAttrs', 'autoApprovers', 'randomizeClientPort'] as const

/** A copy of a policy with one to three random changes of its values, names or shape. */
export function mutatePolicy(random: SeededRandom, policy: Json): Json {
  let changed = structuredClone(policy)
  for (let changes = 1 + random.below(3); changes > 0; changes -= 1) changed = changeAt(random, changed, 0)
  return changed
}

function changeAt(random: SeededRandom, value: Json, depth: number): Json {
  const children = Array.isArray(value) ? value.length : isObject(value) ? Object.keys(value).length : 0
  // Deep places are most of a policy, so go down more often than not.
  if (children > 0 && random.chance(depth < 2 ? 0.97 : 0.6)) {
    if (Array.isArray(value)) {
      const at = random.below(children)
      return value.map((each: Json, i) => (i === at ? changeAt(random, each, depth + 1) : each))
    }
    const at = random.pick(Object.keys(value as object))
    return fromEntries(Object.entries(value as object).map(([key, each]: [string, Json]) => [key, key === at ? changeAt(random, each, depth + 1) : each]))
  }
  if (Array.isArray(value)) return changeList(random, value)
  if (isObject(value)) return changeObject(random, value)
  return changeLeaf(random, value)
}

function changeList(random: SeededRandom, list: readonly Json[]): Json {
  switch (random.below(6)) {
    case 0:
      return [...list, random.pick(WORDS)]
    case 1:
      return list.length === 0 ? null : list.filter((_each, i) => i !== 0)
    case 2:
      return list.length === 0 ? [random.pick(WORDS)] : [...list, list[random.below(list.length)]]
    case 3:
      return [...list].reverse()
    case 4:
      return random.pick([[], null, {}, 'x', [[]], [null], [1]])
    default:
      return [random.pick(WORDS), ...list]
  }
}

function changeObject(random: SeededRandom, value: object): Json {
  const entries: [string, Json][] = Object.entries(value)
  const at = random.below(Math.max(1, entries.length))
  switch (random.below(6)) {
    case 0:
      return fromEntries(entries.filter((_each, i) => i !== at))
    case 1:
      return fromEntries([...entries, [random.pick(KEYS), random.pick([null, [], {}, 'x', true, ['*'], [random.pick(WORDS)]])]])
    case 2:
      return fromEntries(entries.map(([key, each], i) => [i === at ? random.pick([key.toUpperCase(), key.toLowerCase(), `${key}x`, key.slice(1), ` ${key}`]) : key, each]))
    case 3:
      return fromEntries(entries.map(([key, each], i) => [i === at ? random.pick([...KEYS, ...WORDS]) : key, each]))
    case 4:
      return random.pick([null, [], 'x', 1, true])
    default:
      return fromEntries([...entries].reverse())
  }
}

function changeLeaf(random: SeededRandom, value: Json): Json {
  if (typeof value !== 'string') return random.pick([null, 0, 1, -1, 1e400, true, false, 'x', [], {}])
  switch (random.below(8)) {
    case 0:
      return ` ${value} `
    case 1:
      return value.toUpperCase()
    case 2:
      return value.slice(0, random.below(value.length + 1))
    case 3:
      return value + random.pick(['x', ':22', ':*', '/32', '@', '\u0000', '\u00a0', ':'])
    case 4:
      return random.pick([null, 1, true, [], {}, [value]])
    default:
      return random.pick(WORDS)
  }
}

function isObject(value: Json): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

// Own members whatever their name: an assignment to __proto__ would set the prototype.
function fromEntries(entries: readonly (readonly [string, Json])[]): Json {
  return Object.fromEntries(entries)
}
