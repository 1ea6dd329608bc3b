import { parsePolicy } from '@meshwright/policy'
import { parseHuJson } from '@meshwright/policy/hujson'
import { expect, test } from 'vitest'
import { fuzzDecoder, fuzzRule } from './fuzz-decoder.ts'
import { hostilePolicies, hostileTexts, readHostile } from './policy-hostile.ts'
import { lawfulPolicies } from './policy-laws.ts'
import { mutatedPolicies, unreadableStatements } from './policy-mutations.ts'
import { updatedPolicies } from './policy-updates.ts'
import { asWritten } from './policy-written.ts'
import { collect } from './targets.ts'


const POLICY = `{
  // Who is who.
  "groups": {"group:ops": ["alice@example.com", "bob@"]},
  "hosts": {"lan": "10.0.0.0/24"}, "tagOwners": {"tag:web": ["group:ops"], "tag:db": ["tag:web"]},
  "ipsets": {"ipset:a": ["add 10.0.0.0/8", "remove host:lan"]},
  "postures": {"posture:p": ["node:os IN ['linux', 'macos']", "node:tsVersion >= '1.40'"]},
  "grants": [{"src": ["*"], "dst": ["tag:web"], "ip": ["tcp:443", "udp:*"], "app": {"example.com/cap/x": [{"a": 1}]}, "via": ["tag:db"], "srcPosture": ["posture:p"]}],
  "acls": [{"action": "accept", "src": ["group:ops"], "dst": ["[fd00::1]:22", "lan:80-90,443", "ipset:a:*"], "proto": "tcp"}],
  "ssh": [{"action": "check", "src": ["group:ops"], "dst": ["tag:web"], "users": ["root", "localpart:*@example.com"], "checkPeriod": "1h30m"}],
  "nodeAttrs": [{"target": ["*"], "attr": ["funnel"], "ipPool": ["100.81.0.0/16"]}],
  "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:web"]}, "exitNode": ["group:ops"]},
  "tests": [{"src": "alice@example.com", "accept": ["tag:web:443"], "proto": "tcp"}],
  "sshTests": [{"src": "alice@example.com", "dst": ["tag:web"], "accept": ["root"]}],
  "randomizeClientPort": true, "derpMap": {"OmitDefaultRegions": false, "Regions": {"1": null}},
}
`

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

fuzzDecoder('HuJSON', [bytes('{"a": [1, 2.5e3, "\\u00e9"], // c\n /* d */ "b": null,}'), bytes('["x", {"y": {}},]')], (input) => {
  const parsed = parseHuJson(input)
  if (!parsed.ok) return parsed.error
  const { value: tree } = parsed
  expect(tree.pack()).toEqual(Uint8Array.from(input))
  const formatted = tree.clone()
  formatted.format()
  const failed = tree.clone().patch(input)
  return [formatted.pack(), failed ?? '']
})

fuzzDecoder('a policy', [bytes(POLICY)], (input) => {
  const { policy, diagnostics } = parsePolicy(input)
  return policy === undefined ? diagnostics : policy.statements.length
})

// What `npm run fuzz` does by the hundred thousand.
const EVERY_DAY = [[mutatedPolicies, 2_000], [unreadableStatements, 2_000], [updatedPolicies, 400], [asWritten, 150], [lawfulPolicies, 200]] as const
for (const [target, inputs] of EVERY_DAY) {
  if (!collect(target)) {
    test(`${target.name}: ${inputs} inputs`, () => {
      target.run(inputs, 1, () => undefined)
    })
  }
}
collect(hostilePolicies)

fuzzRule('hostile texts are read or refused, never wrong', () => {
  for (const [name, text] of Object.entries(hostileTexts())) expect([name, Object.keys(readHostile(text))]).toEqual([name, ['tree', 'policy']])
})

fuzzRule('ten megabytes are read, packed back and refused by what is in them', () => {
  const entry = '{"action": "accept", "src": ["tag:gone"], "dst": ["*:*"]}, // gone\n'
  const text = `{"acls": [${entry.repeat(Math.ceil(10_000_000 / entry.length))}]}`
  expect(text.length).toBeGreaterThan(10_000_000)
  expect(readHostile(text)).toEqual({ tree: true, policy: false })
  const { diagnostics } = parsePolicy(text)
  expect([diagnostics.length, new Set(diagnostics.map(({ message }) => message)).size]).toEqual([10_001, 2])
  expect(diagnostics.at(-1)?.message).toBe('more than 10000 problems')
})

fuzzRule('a thousand levels, a prototype, lone surrogates, huge numbers and duplicates are refused or kept as they are', () => {
  const app = (value: string): string => `{"grants": [{"src": ["*"], "dst": ["*"], "app": {"example.com/a": [${value}]}}]}`
  const valueOf = (value: string): unknown => parsePolicy(app(value)).policy?.statements[0]?.app[0]?.values?.[0]
  expect(parsePolicy(app(`${'['.repeat(1000)}${']'.repeat(1000)}`)).diagnostics.map(({ code }) => code)).toEqual(['POLICY_SHAPE'])
  expect(parseHuJson(`${'['.repeat(100_000)}${']'.repeat(100_000)}`).ok).toBe(true)
  expect(JSON.stringify(valueOf('{"__proto__": {"a": 1}, "constructor": 2}'))).toBe('{"__proto__":{"a":1},"constructor":2}')
  expect(Object.hasOwn(Object.prototype, 'a')).toBe(false)
  expect(parsePolicy('{"groups": {"group:a": []}, "groups": {}}').diagnostics.map(({ code, column }) => [code, column])).toEqual([['POLICY_DUPLICATE_FIELD', 29]])
  expect(parsePolicy('{"acls": [], "ACLs": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}').policy).toBeUndefined()
  expect(parsePolicy(app('{"a": 1, "a": 2}')).diagnostics.map(({ code }) => code)).toEqual(['POLICY_DUPLICATE_FIELD'])
  expect(parsePolicy('{"hosts": {"\ud800": "10.0.0.1"}}').diagnostics[0]?.message).toBe('hujson: line 1, column 13: invalid Unicode: lone surrogate')
  expect(parsePolicy('{"hosts": {"\\ud800": "10.0.0.1"}}').policy?.hosts.has('\ufffd')).toBe(true)
  for (const number of ['1e400', '9007199254740993', '-12345678901234567890']) expect(parsePolicy(app(number)).diagnostics[0]?.message).toBe(`number ${number} is out of range`)
  expect([valueOf('9007199254740991'), valueOf('-1.5e3')]).toEqual([9007199254740991, -1500])
})
