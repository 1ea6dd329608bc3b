import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from './programs.ts'

interface Manifest {
  readonly name: string
  readonly private?: boolean
  readonly exports?: Readonly<Record<string, unknown>> | string
  readonly dependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
}

const manifest = (folder: string): Manifest => JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as Manifest
const PACKAGES = readdirSync(path.join(ROOT, 'packages'))
  .map((name) => path.join(ROOT, 'packages', name))
  .filter((folder) => existsSync(path.join(folder, 'package.json')) && manifest(folder).private !== true)

/** What each package is asked to do, besides being imported: an expression over its namespace `it` that must be true. */
const CALLS: Readonly<Record<string, string>> = {
  '@meshwright/core': 'it.after(it.instant(1), 2) === 3',
  '@meshwright/ip': `it.formatIp(it.parseIp('100.64.0.1')) === '100.64.0.1'`,
  '@meshwright/crypto': `it.NodePrivateKey.generate((n) => new Uint8Array(n).fill(7)).publicKey().text.startsWith('nodekey:')`,
  '@meshwright/wireguard': 'it.paddedLength(17, 1420) === 32',
  '@meshwright/runtime-node': 'it.systemRandom(4).length === 4',
  '@meshwright/policy': `typeof it.parsePolicy === 'function'`,
}

let shop = ''
let installed = ''

beforeAll(() => {
  shop = mkdtempSync(path.join(os.tmpdir(), 'meshwright-pack-'))
  installed = path.join(shop, 'empty')
  mkdirSync(path.join(installed, 'node_modules', '@meshwright'), { recursive: true })
  const third = new Set<string>()
  for (const folder of PACKAGES) {
    const packed = spawnSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', shop], { cwd: folder, encoding: 'utf8', shell: process.platform === 'win32' })
    expect(packed.status, packed.stderr).toBe(0)
    const [{ filename = '' } = {}] = JSON.parse(packed.stdout) as readonly { readonly filename?: string }[]
    const target = path.join(installed, 'node_modules', ...manifest(folder).name.split('/'))
    mkdirSync(target, { recursive: true })
    const unpacked = spawnSync('tar', ['-xzf', path.join(shop, filename.replace(/^@/, '').replace('/', '-')), '-C', target, '--strip-components=1'])
    expect(unpacked.status, String(unpacked.stderr)).toBe(0)
    for (const name of Object.keys(manifest(folder).dependencies ?? {})) if (!name.startsWith('@meshwright/')) third.add(name)
  }
  // What strangers would get from the registry is taken from our own node_modules, with all that it needs.
  for (const name of third) copyWithDependencies(name)
  writeFileSync(path.join(installed, 'package.json'), '{"type": "module", "private": true}\n')
  writeFileSync(path.join(installed, 'smoke.mjs'), smoke())
})

afterAll(() => rmSync(shop, { recursive: true, force: true }))

function copyWithDependencies(name: string): void {
  const from = path.join(ROOT, 'node_modules', ...name.split('/'))
  const to = path.join(installed, 'node_modules', ...name.split('/'))
  if (existsSync(to) || !existsSync(from)) return
  cpSync(from, to, { recursive: true })
  const { dependencies = {}, optionalDependencies = {} } = manifest(from)
  for (const next of Object.keys({ ...dependencies, ...optionalDependencies })) copyWithDependencies(next)
}

/** A program that imports every entry of every package, calls something, and says what it did. */
function smoke(): string {
  const lines: string[] = []
  for (const folder of PACKAGES) {
    const { name, exports = {} } = manifest(folder)
    const entries = typeof exports === 'string' ? ['.'] : Object.keys(exports).filter((entry) => entry === '.' || (entry.startsWith('./') && !/\.json$|\*/.test(entry)))
    for (const entry of entries) {
      const specifier = entry === '.' ? name : `${name}/${entry.slice(2)}`
      lines.push(`{ const it = await import('${specifier}'); if (Object.keys(it).length === 0) throw new Error('${specifier} exports nothing')`)
      if (entry === '.' && CALLS[name] !== undefined) lines.push(`  if (!(${CALLS[name]})) throw new Error('${specifier} does not work')`)
      lines.push(`  console.log('${specifier}') }`)
    }
  }
  return `${lines.join('\n')}\n`
}

test('every package holds its code, its types, its README and no tests; imports and works in an empty folder', () => {
  expect(PACKAGES.length).toBeGreaterThanOrEqual(17)
  for (const folder of PACKAGES) {
    const { name } = manifest(folder)
    const target = path.join(installed, 'node_modules', ...name.split('/'))
    for (const file of ['README.md', 'package.json', 'dist/index.js', 'dist/index.d.ts']) if (name !== '@meshwright/policy-cli') expect(existsSync(path.join(target, file)), `${name}: ${file}`).toBe(true)
  }
  const ran = spawnSync(process.execPath, ['smoke.mjs'], { cwd: installed, encoding: 'utf8' })
  expect(ran.status, ran.stderr).toBe(0)
  for (const folder of PACKAGES) if (manifest(folder).exports !== undefined) expect(ran.stdout).toContain(`${manifest(folder).name}\n`)
})

const mustRun = process.env['REQUIRE_INTEROP'] === '1' || process.env['CI'] === 'true'

test.for(['22', '24'])('the same on Node %s, from its npm package', (version, context) => {
  const platform = { linux: 'linux', darwin: 'darwin' }[process.platform as string]
  const folder = path.join(shop, `node-${version}`)
  mkdirSync(folder)
  writeFileSync(path.join(folder, 'package.json'), '{"private": true}\n')
  // The package `node` chooses its binary in an install script; the packages of the platforms need none.
  const name = `node-${platform ?? 'unknown'}-${process.arch}`
  const got = platform === undefined ? undefined : spawnSync('npm', ['install', '--no-audit', '--no-fund', '--ignore-scripts', `${name}@${version}`], { cwd: folder, encoding: 'utf8', timeout: 180_000 })
  const binary = path.join(folder, 'node_modules', name, 'bin', 'node')
  if (got?.status !== 0 || !existsSync(binary)) {
    const reason = `Node ${version} could not be had from the registry (${name})`
    if (mustRun) throw new Error(`${reason}: ${got?.stderr ?? ''}`)
    return context.skip(reason)
  }
  const ran = spawnSync(binary, ['smoke.mjs'], { cwd: installed, encoding: 'utf8' })
  expect(ran.status, ran.stderr).toBe(0)
  expect(spawnSync(binary, ['--version'], { encoding: 'utf8' }).stdout).toMatch(new RegExp(`^v${version}\\.`))
})
