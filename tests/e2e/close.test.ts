import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type SmallMesh, startSmallMesh } from './mesh.ts'
import { Bench, ROOT } from './programs.ts'

// What a node leaves in its process when it is closed: nothing. Each program here ends by itself, which it can only when nothing keeps it alive.
const PROGRAM = path.join(ROOT, 'tests/e2e/leaves-nothing.mjs')
const bench = new Bench()
let mesh: SmallMesh

beforeAll(async () => {
  mesh = await startSmallMesh(bench, bench.folder())
})

afterAll(() => bench.clean())

interface Left {
  readonly result: readonly unknown[]
  readonly before: readonly string[]
  readonly after: readonly string[]
}

async function run(scenario: string, around: readonly string[] = []): Promise<Left> {
  const { NODE_OPTIONS: _options, VITEST: _vitest, NODE_ENV: _mode, ...env } = process.env
  const [file = '', ...args] = [...around, process.execPath, PROGRAM]
  const { stdout } = await promisify(execFile)(file, args, { timeout: 120_000, env: { ...env, SCENARIO: scenario, CONTROL_URL: mesh.url, AUTH_KEY: mesh.authKey } })
  return JSON.parse(stdout) as Left // what the program prints
}

test.each([
  ['used', 'nodes that were in the middle of everything', ['hello', 'ECONNRESET', 'ok', 'ECONNABORTED', 'ok', 'ok']],
  ['aborted', 'a start that was ended, at any moment', ['AbortError', 6]],
  ['failed', 'a start that failed', ['UDP_PORT_TAKEN']],
  ['silent', 'control servers that say nothing or are away', ['RUNTIME_NOT_READY', 'RUNTIME_NOT_READY']],
] as const)('%s: %s leave no handle, and the process ends by itself', async (scenario, _words, result) => {
  const left = await run(scenario)
  expect(left.result).toEqual(result)
  expect(left.after).toEqual(left.before)
})

const whyNoTun = process.getuid?.() !== 0 ? 'needs root' : !existsSync('/dev/net/tun') ? 'there is no /dev/net/tun' : undefined
test.skipIf(whyNoTun !== undefined)(`worker: the thread that carries the packets of a TUN device leaves no handle${whyNoTun === undefined ? '' : ` (${whyNoTun})`}`, async () => {
  const left = await run('worker', ['unshare', '--net', '--'])
  expect(['worker', 'portable']).toContain(left.result[0])
  expect(left.after).toEqual(left.before)
})
