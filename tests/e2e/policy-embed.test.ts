import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { Bench, freePort, PROGRAMS } from './programs.ts'

const bench = new Bench()
afterEach(() => bench.clean())

const GOOD = '// Nobody reaches anything.\n{"acls": []}\n'
const BETTER = '{"grants": [{"src": ["alice@example.com"], "dst": ["autogroup:self"], "ip": ["*"]}]}\n'

interface Service {
  readonly folder: string
  ask(method: string, body?: string, more?: Readonly<Record<string, string>>): Promise<{ readonly status: number; readonly text: string }>
}

async function service(): Promise<Service> {
  const folder = bench.folder()
  const port = await freePort()
  const url = `http://127.0.0.1:${port}/policy`
  await bench.start(PROGRAMS.policyEmbed, [], { PORT: String(port), POLICY_FILE: path.join(folder, 'policy.hujson') }).said(/policies at/)
  return {
    folder,
    async ask(method, body, headers = {}) {
      const response = await fetch(url, { method, headers, ...(body === undefined ? {} : { body }) })
      return { status: response.status, text: await response.text() }
    },
  }
}

test('a good policy is kept as it was sent; a bad one is refused with every problem and changes nothing', async () => {
  const { ask, folder } = await service()
  expect(await ask('GET')).toEqual({ status: 200, text: '{}\n' })
  expect((await ask('PUT', GOOD)).status).toBe(200)
  const refused = await ask('PUT', '{"acls": [{"action": "deny", "src": ["tag:x"], "dst": []}]}')
  expect(refused.status).toBe(422)
  expect((JSON.parse(refused.text) as { readonly diagnostics: readonly { readonly code: string; readonly line: number; readonly column: number }[] }).diagnostics.map(({ code, line, column }) => [code, line, column])).toEqual([
    ['POLICY_ACTION', 1, 22],
    ['POLICY_SOURCE', 1, 38],
  ])
  expect(await ask('GET')).toEqual({ status: 200, text: GOOD })
  expect((await ask('PUT', BETTER)).status).toBe(200)
  expect(await ask('GET')).toEqual({ status: 200, text: BETTER })
  expect(readdirSync(folder)).toEqual(['policy.hujson'])
})

test('bodies that are too large, other methods and other places are refused', async () => {
  const { ask, folder } = await service()
  await ask('PUT', GOOD)
  expect((await ask('PUT', ' '.repeat(1_000_001))).status).toBe(413)
  expect((await ask('DELETE')).status).toBe(405)
  expect(readFileSync(path.join(folder, 'policy.hujson'), 'utf8')).toBe(GOOD)
})

test('of two at once one holds, whole', async () => {
  const { ask } = await service()
  const texts = Array.from({ length: 8 }, (_, i) => `{"hosts": {"h": "10.0.0.${i}"}, "acls": []} ${' '.repeat(20_000)}`)
  await Promise.all(texts.map((text) => ask('PUT', text)))
  expect(texts).toContain((await ask('GET')).text)
})
