import { parsePolicy } from '@meshwright/policy'
import { parseHuJson } from '@meshwright/policy/hujson'
import type { FuzzTarget } from './targets.ts'

/** Size of the hostile texts: what a person could send to a control server before anyone looks. */
const TEXT_BYTES = 64 * 1024
/** Most processor time that reading one may take. */
const MOST_MS = 200
const ROUNDS = 3

/** Texts made to cost time: many problems, long names, deep nesting, patterns that others stumble over. */
export function hostileTexts(): Readonly<Record<string, string>> {
  const acl = (src: string, dst: string): string => `{"acls":[{"action":"accept","src":[${src}],"dst":[${dst}]}]}`
  const grant = (src: string, rest: string): string => `{"grants":[{"src":[${src}],"dst":["*"],${rest}}]}`
  const ssh = (rest: string): string => `{"ssh":[{"action":"check","src":["a@b"],"dst":["autogroup:self"],${rest}}]}`
  const posture = (assertion: string): string => `{"postures":{"posture:a":["${assertion}"]}}`
  const users = listOf(2500, (i) => `"u${i}@b"`)
  return {
    'unknown members': filled('{', (i) => `"f${i}":1`, '}'),
    'duplicate members': filled('{', () => '"acls":[]', '}'),
    'deep lists': '['.repeat(TEXT_BYTES / 2) + ']'.repeat(TEXT_BYTES / 2),
    'deep objects': `${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}`,
    'a deep capability': grant('"*"', `"app":{"a.b/c":[${'['.repeat(30_000)}${']'.repeat(30_000)}]}`),
    'unknown tags': filled('{"grants":[{"ip":["*"],"dst":["*"],"src":[', (i) => `"tag:x${i}"`, ']}]}'),
    'unknown tags that resemble many known ones': `{"tagOwners":{${listOf(500, (i) => `"tag:${'y'.repeat(45)}${i}":[]`)}},"grants":[{"ip":["*"],"dst":["*"],"src":[${listOf(500, (i) => `"tag:${'y'.repeat(46)}${i}"`)}]}]}`,
    'wrong destinations': filled('{"acls":[{"action":"accept","src":["*"],"dst":[', (i) => `"nope${i}:x"`, ']}]}'),
    ports: acl('"*"', `"*:${listOf(10_000, (i) => String(i + 1))}"`),
    dashes: acl('"*"', `"*:${'9-'.repeat(30_000)}"`),
    'empty entries': filled('{"acls":[', () => '{}', ']}'),
    'groups in groups': filled('{"groups":{', (i) => `"group:${i}":["group:${i + 1}"]`, '}}'),
    'a chain of ipsets': filled('{"ipsets":{', (i) => `"ipset:${i}":["ipset:${i + 1}"]`, '}}'),
    'ipsets that double': filled('{"ipsets":{', (i) => `"ipset:${i}":["ipset:${i + 1}","ipset:${i + 1}","ipset:${i + 2}"]`, '}}'),
    'a chain of owners': filled('{"tagOwners":{', (i) => `"tag:t${i}":["tag:t${i + 1}"]`, '}}'),
    'a posture with a long list': posture(`node:os IN [${"'a',".repeat(15_000)}x]`),
    'a posture of spaces': posture(`node:os NOT${' '.repeat(60_000)}I`),
    'a posture of words': posture(`node:os IN [${'a '.repeat(30_000)}`),
    'a long key of a posture': posture('a'.repeat(60_000)),
    'many units': ssh(`"users":["r"],"checkPeriod":"${'1s'.repeat(30_000)}"`),
    'many digits': ssh(`"users":["r"],"checkPeriod":"0.${'1'.repeat(60_000)}s"`),
    'many wrong users': filled('{"ssh":[{"action":"accept","src":["a@b"],"dst":["autogroup:self"],"users":[', () => '"*"', ']}]}'),
    'users to users': `{"ssh":[{"action":"accept","src":[${users}],"dst":[${users}],"users":["r"]}]}`,
    'a dotted capability': grant('"*"', `"app":{"${'a.'.repeat(30_000)}":[]}`),
    'a slashed capability': grant('"*"', `"app":{"${'a./'.repeat(20_000)} ":[]}`),
    'long addresses': grant(listOf(800, () => `"${'1:'.repeat(38)}"`), '"ip":["*"]'),
    'an endless address': `{"hosts":{"a":"${'1.'.repeat(30_000)}"}}`,
    'huge numbers': filled('{"derpMap":{"Regions":{"1":{"a":[', () => '1e999999999', ']}}}}'),
    comments: `${'//x\n'.repeat(TEXT_BYTES / 4 - 1)}{}`,
    'one comment': `/*${'*'.repeat(TEXT_BYTES)}*/{}`,
    escapes: `{"${'\\u2028'.repeat(10_000)}":1}`,
    'a long name': acl(`"tag:${'é'.repeat(30_000)}"`, '"*:*"'),
    'both names of all members': filled('{"grants":[{"ip":["*"],"dst":["*"],"src":["autogroup:member",', () => '"autogroup:members"', ']}]}'),
    'a cut text': filled('{"acls":[', () => '{"src":["a"],"dst":["b:1"],"action":"accept"}', ''),
  }
}

/** Every hostile text is read in little processor time. */
export const hostilePolicies: FuzzTarget = {
  name: 'hostile policies in little time',
  defaultInputs: 1,
  run(_inputs, _seed, progress) {
    let slowest = 0
    const texts = Object.entries(hostileTexts())
    for (const [i, [name, text]] of texts.entries()) {
      const spent = Math.min(...Array.from({ length: ROUNDS }, () => processorMs(() => parsePolicy(text))))
      if (spent > MOST_MS) throw new Error(`${name}: ${Math.round(spent)} ms of processor time for ${text.length} characters`)
      slowest = Math.max(slowest, spent)
      progress(i)
    }
    return { inputs: texts.length, grownBytes: 0, outcomes: { 'slowest, ms': Math.round(slowest) } }
  },
}

/** What becomes of every hostile text: read or refused, and the tree packs back. */
export function readHostile(text: string): { readonly tree: boolean; readonly policy: boolean } {
  const tree = parseHuJson(text)
  const { policy, diagnostics } = parsePolicy(text)
  if ((policy === undefined) !== diagnostics.length > 0) throw new Error('neither a policy nor a diagnostic, or both')
  if (tree.ok && tree.value.toString() !== text) throw new Error('does not pack back')
  return { tree: tree.ok, policy: policy !== undefined }
}

function processorMs(work: () => void): number {
  const begun = process.cpuUsage()
  work()
  const { user, system } = process.cpuUsage(begun)
  return (user + system) / 1000
}

function listOf(count: number, item: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => item(i)).join(',')
}

function filled(before: string, item: (i: number) => string, after: string): string {
  let text = before
  for (let i = 0; text.length < TEXT_BYTES - after.length - 64; i += 1) text += (i === 0 ? '' : ',') + item(i)
  return text + after
}
