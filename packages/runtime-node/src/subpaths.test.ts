import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const SOURCES = path.dirname(fileURLToPath(import.meta.url))

/** The packages that are loaded with an entry: `import type` costs nothing at run time. */
function loaded(entry: string): string[] {
  const packages = new Set<string>()
  const seen = new Set<string>()
  const visit = (file: string): void => {
    if (seen.has(file)) return
    seen.add(file)
    for (const [, what, from] of readFileSync(file, 'utf8').matchAll(/^(?:import|export)\s+(type\s)?[^'\n]*?from\s+'([^']+)'/gm)) {
      if (what !== undefined || from === undefined) continue
      if (from.startsWith('.')) visit(path.join(path.dirname(file), from))
      else if (from.startsWith('@meshwright/')) packages.add(from.split('/')[1] ?? '')
    }
  }
  visit(path.join(SOURCES, entry))
  return [...packages].sort()
}

const ENGINE = ['mesh', 'wireguard', 'netstack', 'cryptokey-router', 'packet-filter', 'magicdns', 'control-client']

test('the whole node loads the engine: the rule below can fail', () => {
  expect(loaded('index.ts')).toContain('mesh')
})

test.each(['relay.ts', 'control.ts'])('%s loads no engine', (entry) => {
  const packages = loaded(entry)
  expect(packages).toContain('core')
  expect(packages.filter((name) => ENGINE.includes(name))).toEqual([])
})
