import { spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { Bench, PROGRAMS, ROOT } from './programs.ts'

const bench = new Bench()
afterEach(() => bench.clean())

const EXAMPLE = path.join(ROOT, 'examples', 'policy-ci')
const GOOD = '{\n\t"tagOwners": {"tag:web": []},\n\t"acls": [\n\t\t{"action": "accept", "src": ["alice@example.com"], "dst": ["tag:web:443"]},\n\t],\n\t"tests": [\n\t\t{"src": "alice@example.com", "accept": ["tag:web:443"]},\n\t],\n}\n'
const BAD = GOOD.replace('"accept", "src"', '"deny", "src"')
const INVENTORY = JSON.stringify({
  users: [{ id: 1, login: 'alice@example.com' }],
  nodes: [
    { id: 1, name: 'laptop', user: 1, addresses: ['100.64.0.1'] },
    { id: 2, name: 'web', tags: ['tag:web'], addresses: ['100.64.0.2'] },
  ],
})

/** A git repository in a folder of its own, with the hook, and with the built program on the path. */
class Repository {
  readonly folder: string = bench.folder()
  readonly #bin: string = path.join(this.folder, '.bin')

  constructor() {
    mkdirSync(this.#bin)
    const program = path.join(this.#bin, 'meshwright-policy')
    writeFileSync(program, `#!/bin/sh\nexec '${process.execPath}' '${PROGRAMS.policy}' "$@"\n`)
    chmodSync(program, 0o755)
    this.run('git init -q -b main && git config user.name t && git config user.email t@example.com && echo .bin > .git/info/exclude')
    const hook = path.join(this.folder, '.git', 'hooks', 'pre-commit')
    mkdirSync(path.dirname(hook), { recursive: true })
    copyFileSync(path.join(EXAMPLE, 'pre-commit'), hook)
    chmodSync(hook, 0o755)
  }

  write(name: string, text: string): void {
    writeFileSync(path.join(this.folder, name), text)
  }

  run(command: string, env: Readonly<Record<string, string>> = {}): { readonly status: number | null; readonly text: string } {
    const { PATH = '' } = process.env
    const clean = { PATH: `${this.#bin}:${PATH}`, HOME: this.folder, GIT_CONFIG_NOSYSTEM: '1', ...env }
    const { status, stdout, stderr } = spawnSync('bash', ['-eo', 'pipefail', '-c', command], { cwd: this.folder, env: clean, encoding: 'utf8' })
    return { status, text: stdout + stderr }
  }
}

describe('the hook', () => {
  test('lets a good policy pass, and commits that hold none', () => {
    const repository = new Repository()
    repository.write('policy.hujson', GOOD)
    repository.write('other.txt', 'x')
    expect(repository.run('git add policy.hujson && git commit -q -m good')).toEqual({ status: 0, text: '' })
    expect(repository.run('git add other.txt && git commit -q -m other')).toEqual({ status: 0, text: '' })
  })

  test('refuses what is staged, by line and column, whatever lies in the folder', () => {
    const repository = new Repository()
    repository.write('my policy*.hujson', BAD)
    repository.run('git add .')
    repository.write('my policy*.hujson', GOOD)
    const { status, text } = repository.run('git commit -q -m bad')
    expect(status).toBe(1)
    expect(text).toContain('my policy*.hujson:4:14: action="deny" is not supported')
    expect(repository.run('git log --oneline').status).not.toBe(0)
  })

  test('refuses what is not laid out, and says what to do', () => {
    const repository = new Repository()
    repository.write('policy.hujson', '{"acls":[]}')
    const refused = repository.run('git add . && git commit -q -m loose')
    expect([refused.status, refused.text]).toEqual([1, 'policy.hujson: not laid out; run: meshwright-policy fmt "policy.hujson" --write && git add "policy.hujson"\n'])
    expect(repository.run('meshwright-policy fmt "policy.hujson" --write && git add "policy.hujson" && git commit -q -m laid').status).toBe(0)
  })

  test('with an inventory it runs the tests of the policy', () => {
    const repository = new Repository()
    repository.write('inventory.json', INVENTORY)
    repository.write('policy.hujson', GOOD.replace('"accept": ["tag:web:443"]', '"accept": ["tag:web:22"]'))
    const { status, text } = repository.run('git add . && git commit -q -m untrue')
    expect([status, text.includes('policy.hujson:7:3: test(s) failed')]).toEqual([1, true])
  })
})

interface Step {
  readonly name?: string
  readonly uses?: string
  readonly run?: string
  readonly env?: Readonly<Record<string, string>>
}

const WORKFLOW = parse(readFileSync(path.join(EXAMPLE, 'policy.yml'), 'utf8')) as { readonly on: object; readonly permissions: object; readonly jobs: { readonly check: { readonly steps: readonly Step[] } } }

describe('the workflow', () => {
  test('installs the published program by the version of this repository, and may only read', () => {
    const { name, version } = JSON.parse(readFileSync(path.join(ROOT, 'examples', 'policy-cli', 'package.json'), 'utf8')) as { readonly name: string; readonly version: string }
    expect(WORKFLOW.jobs.check.steps.map(({ run }) => run)).toContain(`npm install --global ${name}@${version}`)
    expect(WORKFLOW.permissions).toEqual({ contents: 'read' })
    expect(Object.keys(WORKFLOW.on)).toEqual(['pull_request', 'push'])
  })

  /** Runs all steps that run something, the installation apart, as the runner does; gives those that failed, and the summary. */
  function runSteps(repository: Repository, base: string): { readonly failed: readonly (string | undefined)[]; readonly text: string; readonly summary: string } {
    const summary = path.join(repository.folder, '.bin', 'summary.md')
    writeFileSync(summary, '')
    let text = ''
    const failed: (string | undefined)[] = []
    for (const { name, run, env = {} } of WORKFLOW.jobs.check.steps) {
      if (run === undefined || run.startsWith('npm install')) continue
      const own = Object.fromEntries(Object.entries(env).map(([key, value]) => [key, value.replace(/^\$\{\{ github\.event\.pull_request\.base\.sha \}\}$/, base)]))
      const ran = repository.run(run, { ...own, GITHUB_STEP_SUMMARY: summary, RUNNER_TEMP: path.join(repository.folder, '.bin') })
      text += ran.text
      if (ran.status !== 0) failed.push(name)
    }
    return { failed, text, summary: readFileSync(summary, 'utf8') }
  }

  test('a good pull request passes, and its summary says who gains what', () => {
    const repository = new Repository()
    repository.write('inventory.json', INVENTORY)
    repository.write('policy.hujson', GOOD)
    const base = repository.run('git add . && git commit -q -m base && git rev-parse HEAD').text.trim()
    const line = '\t\t{"action": "accept", "src": ["alice@example.com"], "dst": ["tag:web:80"]},\n'
    repository.write('policy.hujson', GOOD.replace('"acls": [\n', `"acls": [\n${line}`))
    repository.run('git commit -q -a -m change')
    const { failed, summary } = runSteps(repository, base)
    expect(failed).toEqual([])
    expect(summary).toContain('### Access: 1 gained, 0 lost')
    expect(summary).toContain('| **gains** | alice@example.com | tag:web | port 80 |')
  })

  test('the first policy of all is compared with one that allows nothing', () => {
    const repository = new Repository()
    repository.write('inventory.json', INVENTORY)
    const base = repository.run('git add . && git commit -q -m base && git rev-parse HEAD').text.trim()
    repository.write('policy.hujson', GOOD)
    repository.run('git add . && git commit -q -m first')
    const { failed, summary } = runSteps(repository, base)
    expect([failed, summary.includes('### Access: 1 gained, 0 lost')]).toEqual([[], true])
  })

  test('a bad one fails at the step that says why, as an annotation at its line', () => {
    const repository = new Repository()
    repository.write('inventory.json', INVENTORY)
    repository.write('policy.hujson', BAD)
    const base = repository.run('git add . && git commit -q --no-verify -m bad && git rev-parse HEAD').text.trim()
    const { failed, text } = runSteps(repository, base)
    expect(failed).toEqual(['Check the policy and run its tests', 'What no test exercises', 'Who gains and who loses access'])
    expect(text).toContain('::error file=policy.hujson,line=4,col=14,title=POLICY_ACTION::action="deny" is not supported')
  })
})
