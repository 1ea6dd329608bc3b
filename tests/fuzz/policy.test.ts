import { parsePolicy } from '@meshwright/policy'
import { parseHuJson } from '@meshwright/policy/hujson'
import { SeededRandom } from '@meshwright/testkit'
import { expect } from 'vitest'
import { fuzzDecoder, fuzzRule, mutate } from './fuzz-decoder.ts'

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

fuzzRule('a policy that parses before a mutation never allows more for a statement that the mutation made unreadable: it is refused whole', () => {
  const random = new SeededRandom(7)
  const sample = bytes(POLICY)
  for (let round = 0; round < 2000; round += 1) {
    const { policy, diagnostics } = parsePolicy(mutate(random, sample, [sample]))
    expect(policy === undefined).toBe(diagnostics.length > 0)
  }
})
