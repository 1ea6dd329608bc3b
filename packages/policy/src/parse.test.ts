import { describe, expect, test } from 'vitest'
import { patchHuJson } from './hujson/index.ts'
import { parsePolicy } from './index.ts'

const TAGS = '"tagOwners": {"tag:web": []}'

function messages(text: string): readonly string[] {
  return parsePolicy(text).diagnostics.map(({ message }) => message)
}

describe('refusing', () => {
  test('all problems are reported at once, each at its place', () => {
    const text = `{
  // two wrong lines
  "grants": [
    {"src": ["tag:gone"], "dst": ["*"], "ip": ["icmp"]},
  ],
  "acls": [{"action": "deny", "src": ["*"], "dst": ["*:*"]}],
}`
    const { policy, diagnostics } = parsePolicy(text)
    expect(policy).toBeUndefined()
    expect(diagnostics.map(({ message, line, column, path }) => [message, line, column, path])).toEqual([
      ['src=tag not found: "tag:gone"', 4, 14, '/grants/0/src/0'],
      ['port range "icmp": invalid first integer', 4, 48, '/grants/0/ip/0'],
      ['action="deny" is not supported', 6, 23, '/acls/0/action'],
    ])
  })

  test.each([
    [`{"acls": [{"action": "accept", "src": ["autogroup:self"], "dst": ["*:*"]}]}`, '"autogroup:self" not valid on the src side of a rule'],
    [
      `{${TAGS}, "acls": [{"action": "accept", "src": ["*"], "dst": ["tag:web:ssh"]}]}`,
      'dst="tag:web:ssh": port range "ssh": invalid first integer',
    ],
    [`{${TAGS}, "grants": [{"src": ["*"], "dst": ["tag:web"]}]}`, 'ip and app can not both be empty'],
    [`{"groups": {"group:a": ["group:b"], "group:b": []}}`, 'groups["group:a"]: "group:b": group members cannot be recursive'],
    [`{"tagOwners": {"tag:1x": []}}`, `tagOwners["tag:1x"]: tag names must start with a letter, after 'tag:'`],
    [
      `{${TAGS}, "ssh": [{"action": "check", "src": ["a@b.c"], "dst": ["tag:web"], "users": ["root"], "checkPeriod": "-1m"}]}`,
      'checkPeriod -1m0s must be a positive duration',
    ],
    [`{"acls": [], "acls": []}`, 'duplicate object member name "acls"'],
    [`{"acl": []}`, 'unknown field: "acl"'],
    [`{"acls": {}}`, 'acls must be a list'],
    [`[]`, 'a policy must be an object'],
    [`{"ipsets": {"ipset:a": ["add ipset:b"], "ipset:b": ["add ipset:a"]}}`, 'ipsets["ipset:b"]: "ipset:a": ipsets cannot be recursive'],
    [`{"postures": {"posture:p": []}}`, 'postures["posture:p"]: a posture needs an assertion'],
  ])('%s', (text, message) => {
    expect(messages(text)).toContain(message)
  })

  test('a near name is offered, and a fix makes the policy good', () => {
    const text = `{${TAGS}, "ssh": [{"action": "Accept", "src": ["a@b.c"], "dst": ["tag:web"], "users": ["root"]}]}`
    const [diagnostic] = parsePolicy(text).diagnostics
    const fixed = patchHuJson(text, JSON.stringify(diagnostic?.fix))
    expect(fixed.ok && parsePolicy(fixed.value).diagnostics).toEqual([])
    expect(parsePolicy(`{${TAGS}, "grants": [{"src": ["tag:wbe"], "dst": ["*"], "ip": ["*"]}]}`).diagnostics[0]?.remedy).toContain(
      '"tag:web"',
    )
  })

  test('a syntax error has the place and text of the HuJSON module', () => {
    expect(parsePolicy('{\n  "acls": [,]}').diagnostics).toEqual([
      {
        code: 'POLICY_SYNTAX',
        message: "hujson: line 2, column 12: invalid character ',' at start of value",
        line: 2,
        column: 12,
        offset: 13,
        path: '',
      },
    ])
  })
})

describe('accepting', () => {
  test('names of members are matched without regard to case, old names too', () => {
    expect(
      messages('{"ACLs": [{"Action": "accept", "Users": ["*"], "Ports": ["*:*"], "#note": "x"}], "Groups": {"group:a": ["alice@"]}}'),
    ).toEqual([])
  })

  test('IPv6 destinations stand in brackets, with or without a length', () => {
    expect(
      messages('{"acls": [{"action": "accept", "src": ["*"], "dst": ["[fd00::1]:22", "[fd00::]/64:80", "fd00:1::/64:443"]}]}'),
    ).toEqual([])
  })

  test('a capability named __proto__ or deep JSON below it is passed on or refused, never lost', () => {
    const deep = `${'['.repeat(200)}${']'.repeat(200)}`
    expect(messages(`{"grants": [{"src": ["*"], "dst": ["*"], "app": {"example.com/cap": [${deep}]}}]}`)[0]).toContain('nested too deeply')
  })
})
