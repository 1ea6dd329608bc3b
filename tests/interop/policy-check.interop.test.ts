import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { checkPolicy, parsePolicy, type TailnetView, type UserRole } from '@meshwright/policy'
import { SeededRandom } from '@meshwright/testkit'
import { afterAll, expect, test } from 'vitest'
import { mutatePolicy } from '../fuzz/policy-mutate.ts'
import { programFile } from './lab-flow.ts'
import { CAUSES, causeOf, causesTable, type Judged } from './policy-differences.ts'
import { ownProgramFlow } from './policy-flow.ts'
import { HeadscaleCheck } from './policy-headscale.ts'

// A real `headscale policy check` judges the captured policies, and mutations of policies. Where it judges otherwise, the cause must be known.
const MUTATIONS = Number(process.env['INTEROP_POLICY_CHECKS'] ?? 150)
const ROOT = path.resolve(import.meta.dirname, '../..')
const CORPUS = path.join(process.env['MESHWRIGHT_SHARED'] ?? path.join(ROOT, '../shared'), 'conformance/policy')

interface Question {
  readonly policy: string
  readonly tailnet: TailnetView
}

let check: HeadscaleCheck | undefined
afterAll(() => check?.close())

async function judge(questions: readonly Question[]): Promise<readonly Judged[]> {
  check ??= new HeadscaleCheck(programFile('headscale'))
  const answers = await check.ask(questions)
  return questions.map(({ policy, tailnet }, i): Judged => {
    const parsed = parsePolicy(policy)
    const problems = parsed.policy === undefined ? parsed.diagnostics : checkPolicy(parsed.policy, tailnet)
    return { weAccept: problems.length === 0, ours: problems[0]?.message ?? '', theirs: answers[i]?.accepted === true ? '' : answers[i]?.said ?? 'no answer' }
  })
}

function unexplained(questions: readonly Question[], judged: readonly Judged[]): readonly object[] {
  return judged.flatMap((each, i) => (each.weAccept === (each.theirs === '') || causeOf(each) !== undefined ? [] : [{ ...each, policy: questions[i]?.policy }]))
}

ownProgramFlow('policy check agrees on mutated policies, but for known causes', 'headscale', async () => {
  const random = new SeededRandom(Number(process.env['INTEROP_SEED'] ?? 1))
  const bases = existsSync(CORPUS) ? [...BASES, ...corpus().filter(({ accepted }) => accepted)] : BASES
  const questions = Array.from({ length: MUTATIONS }, (): Question => {
    const { policy, tailnet } = random.pick(bases)
    return { policy: JSON.stringify(mutatePolicy(random, JSON.parse(policy))), tailnet }
  })
  const judged = await judge(questions)
  expect(unexplained(questions, judged)).toEqual([])
  const accepted = judged.filter(({ theirs }) => theirs === '').length
  expect(accepted).toBeGreaterThan(MUTATIONS / 20)
  expect(MUTATIONS - accepted).toBeGreaterThan(MUTATIONS / 20)
})

const captured = async (): Promise<void> => {
  // All of them only where more than the usual is asked for.
  const questions = corpus().filter((_each, i) => MUTATIONS > 500 || i % 5 === 0)
  const judged = await judge(questions)
  expect(unexplained(questions, judged)).toEqual([])
  expect(judged.filter(({ weAccept, theirs }) => weAccept === (theirs === '')).length).toBeGreaterThan(questions.length * 0.95)
}
const noCorpus = existsSync(CORPUS) ? undefined : `no captured policies at ${path.relative(ROOT, CORPUS)}`
ownProgramFlow('policy check agrees on the captured policies, but for known causes', 'headscale', captured, noCorpus)

test('docs/policy-differences.md holds the table of all causes [headscale]', () => {
  expect(readFileSync(path.join(ROOT, 'docs/policy-differences.md'), 'utf8')).toContain(causesTable())
  expect(new Set(CAUSES.map(({ title }) => title)).size).toBe(CAUSES.length)
})

const TAILNET: TailnetView = {
  users: [
    { id: 1, login: 'alice@example.com', role: 'owner' },
    { id: 2, login: 'bob@example.com', role: 'member' },
  ],
  nodes: [
    { id: 1, name: 'laptop', user: 1, tags: [], addresses: addresses('100.64.0.1', 'fd7a:115c:a1e0::1'), ...routes([]) },
    { id: 2, name: 'phone', user: 2, tags: [], addresses: addresses('100.64.0.2', 'fd7a:115c:a1e0::2'), ...routes([]) },
    { id: 3, name: 'web', tags: ['tag:web'], addresses: addresses('100.64.0.3', 'fd7a:115c:a1e0::3'), ...routes([]) },
    { id: 4, name: 'router', tags: ['tag:router'], addresses: addresses('100.64.0.4', 'fd7a:115c:a1e0::4'), ...routes(['10.0.0.0/16']) },
  ],
  domains: ['example.com'],
}
const NAMES = { groups: { 'group:ops': ['alice@example.com', 'bob@example.com'] }, hosts: { lan: '10.0.0.0/16', one: '100.64.0.3' }, tagOwners: { 'tag:web': ['group:ops'], 'tag:router': ['alice@example.com'] } }
const BASES: readonly Question[] = [
  { acls: [{ action: 'accept', src: ['group:ops', 'tag:web'], dst: ['tag:web:22,80-443', 'lan:*', 'autogroup:internet:*'], proto: 'tcp' }, { action: 'accept', src: ['autogroup:member'], dst: ['autogroup:self:*'] }] },
  { grants: [{ src: ['alice@example.com'], dst: ['tag:web', '10.0.0.0/24'], ip: ['tcp:443', 'icmp:*', '53'] }, { src: ['*'], dst: ['lan'], ip: ['*'], via: ['tag:router'] }, { src: ['group:ops'], dst: ['tag:web'], app: { 'example.com/cap/a': [{ b: 1 }] } }] },
  { acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }], ssh: [{ action: 'check', src: ['group:ops'], dst: ['tag:web'], users: ['root', 'autogroup:nonroot'], checkPeriod: '1h' }, { action: 'accept', src: ['autogroup:member'], dst: ['autogroup:self'], users: ['alice'] }] },
  {
    acls: [{ action: 'accept', src: ['group:ops'], dst: ['one:22'] }],
    autoApprovers: { routes: { '10.0.0.0/8': ['tag:router', 'group:ops'] }, exitNode: ['tag:router'] },
    tests: [{ src: 'alice@example.com', accept: ['one:22'], deny: ['tag:router:22'], proto: 'tcp' }],
    nodeAttrs: [{ target: ['tag:web', 'group:ops'], attr: ['randomize-client-port'] }],
  },
].map((sections) => ({ policy: JSON.stringify({ ...NAMES, ...sections }), tailnet: TAILNET }))

function addresses(...texts: readonly string[]): TailnetView['nodes'][number]['addresses'] {
  return texts.flatMap((text) => parseIp(text) ?? [])
}

function routes(texts: readonly string[]): { readonly advertisedRoutes: readonly Prefix[]; readonly approvedRoutes: readonly Prefix[]; readonly created: number } {
  const prefixes = texts.flatMap((text) => parsePrefix(text) ?? [])
  return { advertisedRoutes: prefixes, approvedRoutes: prefixes, created: 0 }
}

interface Case {
  readonly policy: string
  readonly apiResponseCode: number
  readonly users: readonly { readonly id: number; readonly name: string; readonly email: string; readonly role: UserRole }[]
  readonly nodes: readonly { readonly id: number; readonly name: string; readonly ips: readonly string[]; readonly user?: string; readonly tags: readonly string[]; readonly approved: readonly string[] }[]
}

function corpus(): readonly (Question & { readonly accepted: boolean })[] {
  const lines = readdirSync(CORPUS)
    .filter((name) => name.endsWith('.jsonl'))
    .sort()
    .flatMap((name) => readFileSync(path.join(CORPUS, name), 'utf8').trim().split('\n'))
  return lines.map((line) => {
    const { policy, apiResponseCode, users, nodes } = JSON.parse(line) as Case
    const tailnet: TailnetView = {
      users: users.map(({ id, email, role }) => ({ id, login: email, role })),
      nodes: nodes.map(({ id, name, ips, user, tags, approved }) => {
        const owner = users.find((each) => each.name === user)
        return { id, name, ...(owner === undefined ? {} : { user: owner.id }), tags, addresses: addresses(...ips), ...routes(approved) }
      }),
      domains: ['example.com'],
    }
    return { policy, tailnet, accepted: apiResponseCode === 200 }
  })
}
