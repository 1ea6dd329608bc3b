import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { type JsonSchema, parsePolicy } from '@meshwright/policy'
import { beforeAll, describe, expect, test } from 'vitest'
import { PROGRAMS, ROOT, run } from './programs.ts'

const CORPUS = path.join(path.resolve(ROOT, process.env['MESHWRIGHT_SHARED'] ?? '../shared'), 'conformance', 'policy')
let SCHEMA: JsonSchema = {}

beforeAll(async () => {
  const { status, out } = await run(PROGRAMS.policy, ['schema'])
  expect(status).toBe(0)
  SCHEMA = JSON.parse(out) as JsonSchema
})

/** As much of JSON schema as ours uses; every problem with its path. */
function problems(value: unknown, schema: unknown, path: string = ''): string[] {
  if (schema === true) return []
  const known = ['$schema', 'title', 'definitions', 'description', 'examples', '$ref', 'allOf', 'anyOf', 'enum', 'type', 'pattern', 'items', 'properties', 'patternProperties', 'additionalProperties', 'propertyNames']
  const rules = schema as JsonSchema
  for (const keyword of Object.keys(rules)) if (!known.includes(keyword)) throw new Error(`the test knows no ${keyword}`)
  const found: string[] = []
  const wrong = (what: string): void => void found.push(`${path}: ${what}`)
  if (typeof rules['$ref'] === 'string') found.push(...problems(value, follow(rules['$ref']), path))
  for (const each of lists(rules['allOf'])) found.push(...problems(value, each, path))
  const choices = lists(rules['anyOf'])
  if (choices.length > 0 && choices.every((each) => problems(value, each, path).length > 0)) wrong('fits no choice')
  if ('enum' in rules && !lists(rules['enum']).includes(value)) wrong(`not one of ${JSON.stringify(rules['enum'])}`)
  if ('type' in rules && ![rules['type']].flat().includes(typeOf(value))) wrong(`is no ${String(rules['type'])}`)
  if (typeof rules['pattern'] === 'string' && typeof value === 'string' && !new RegExp(rules['pattern'], 'u').test(value)) wrong(`${value} does not match ${rules['pattern']}`)
  if (Array.isArray(value) && 'items' in rules) for (const [i, item] of value.entries()) found.push(...problems(item, rules['items'], `${path}/${i}`))
  if (typeOf(value) === 'object') for (const [name, member] of Object.entries(value as object)) found.push(...memberProblems(name, member, rules, path))
  return found
}

function memberProblems(name: string, member: unknown, rules: JsonSchema, path: string): string[] {
  const found: string[] = []
  const here = `${path}/${name}`
  const own = (rules['properties'] as JsonSchema | undefined)?.[name]
  const patterns = Object.entries((rules['patternProperties'] ?? {}) as JsonSchema).filter(([pattern]) => new RegExp(pattern, 'u').test(name))
  if (own !== undefined) found.push(...problems(member, own, here))
  for (const [, each] of patterns) found.push(...problems(member, each, here))
  if (own === undefined && patterns.length === 0 && rules['additionalProperties'] === false) found.push(`${here}: is unknown`)
  else if (own === undefined && patterns.length === 0 && 'additionalProperties' in rules) found.push(...problems(member, rules['additionalProperties'], here))
  if ('propertyNames' in rules) found.push(...problems(name, rules['propertyNames'], here))
  return found
}

function follow(ref: string): unknown {
  return ref.slice(2).split('/').reduce<unknown>((at, part) => (at as JsonSchema)[part], SCHEMA)
}

function lists(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}

function typeOf(value: unknown): string {
  return value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value
}

const WHOLE = {
  groups: { 'group:dev': ['alice@example.com', 'bob@'] },
  hosts: { lan: '10.0.0.0/8', 'db-1': 'fd7a:115c:a1e0::5' },
  tagOwners: { 'tag:web': ['autogroup:admin', 'group:dev', 'tag:ci'], 'tag:ci': [] },
  ipsets: { 'ipset:all': ['add 10.0.0.0/8', 'remove host:lan'] },
  postures: { 'posture:new': ["node:tsVersion >= '1.40'"] },
  defaultSrcPosture: [],
  acls: [
    { action: 'accept', src: ['*', 'group:dev', ' tag:web'], dst: ['tag:web:22,80-90', '*:*', '[fd7a:115c:a1e0::5]:443', 'lan:*', 'ipset:all:53'], proto: 'tcp', '#note': 'x' },
    { Action: 'accept', Users: ['alice@example.com'], Ports: ['autogroup:internet:*'], srcPosture: null },
  ],
  grants: [{ src: ['autogroup:member'], dst: ['lan', '192.168.1.0/24'], ip: ['tcp:443', 'udp:53', '*', '8000-8999'], app: { 'example.com/cap': [{ a: 1 }] }, via: ['tag:web'] }],
  ssh: [{ action: 'check', src: ['group:dev'], dst: ['tag:web', 'tag:ci'], users: ['root', 'localpart:*@example.com'], checkPeriod: '12h', acceptEnv: null }],
  nodeAttrs: [{ target: ['*'], attr: ['funnel'] }],
  autoApprovers: { routes: { '10.0.0.0/8': ['tag:web'] }, exitNode: ['group:dev'] },
  tests: [{ src: 'alice@example.com', proto: 'tcp', accept: ['tag:web:22'], deny: ['lan:1'], srcPostureAttrs: { 'node:os': 'linux' } }],
  sshTests: [{ src: 'alice@example.com', dst: ['tag:web'], check: ['root'] }],
  oneCGNATRoute: 'mac-always',
  randomizeClientPort: true,
}

test('a policy with every section fits', () => {
  expect(problems(WHOLE, SCHEMA)).toEqual([])
  expect(problems({}, SCHEMA)).toEqual([])
})

describe('what is refused by the decoder for its shape is flagged', () => {
  test.each([
    ['a section', { aclz: [] }],
    ['a member of an acl', { acls: [{ action: 'accept', source: ['*'], dst: ['*:*'] }] }],
    ['a member of a grant', { grants: [{ src: ['*'], dst: ['*'], ips: ['*'] }] }],
    ['a member of ssh', { ssh: [{ action: 'accept', src: ['a@b'], dst: ['autogroup:self'], user: ['root'] }] }],
    ['a member of a test', { tests: [{ src: 'a@b', accepts: ['c@d:1'] }] }],
    ['an action', { acls: [{ action: 'deny', src: ['*'], dst: ['*:*'] }] }],
    ['a missing port', { acls: [{ action: 'accept', src: ['*'], dst: ['tag:web'] }] }],
    ['an autogroup', { grants: [{ src: ['autogroup:everybody'], dst: ['*'], ip: ['*'] }] }],
    ['an autogroup in the wrong place', { grants: [{ src: ['autogroup:self'], dst: ['*'], ip: ['*'] }] }],
    ['a tag by no letter', { tagOwners: { 'tag:1': [] } }],
    ['a group without its prefix', { groups: { dev: [] } }],
    ['a list that is none', { groups: { 'group:dev': 'alice@example.com' } }],
    ['via a group', { grants: [{ src: ['*'], dst: ['10.0.0.0/8'], ip: ['*'], via: ['group:dev'] }] }],
  ])('%s', (_what, policy) => {
    expect(parsePolicy(JSON.stringify(policy)).diagnostics).not.toEqual([])
    expect(problems(policy, SCHEMA)).not.toEqual([])
  })
})

test('every policy that the hosted service accepted fits', (context) => {
  if (!existsSync(CORPUS)) return context.skip(`${CORPUS} does not exist`)
  let cases = 0
  for (const file of readdirSync(CORPUS).filter((name) => name.endsWith('.jsonl'))) {
    for (const line of readFileSync(path.join(CORPUS, file), 'utf8').trim().split('\n')) {
      const { id, apiResponseCode, policy } = JSON.parse(line) as { readonly id: string; readonly apiResponseCode: number; readonly policy: string }
      if (apiResponseCode !== 200) continue
      expect(problems(JSON.parse(policy), SCHEMA), id).toEqual([])
      cases += 1
    }
  }
  expect(cases).toBeGreaterThan(0)
})
