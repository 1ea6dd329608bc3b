import { readFileSync } from 'node:fs'
import path from 'node:path'
import { runInNewContext } from 'node:vm'
import { build, type OutputFile } from 'esbuild'
import { describe, expect, test } from 'vitest'
import { type HousePackage, readPackages, ROOT, sourceFiles } from './repository.ts'
import { floorRule, indexRule, machineRule, purityRule, readmeRule, shapeRule, sizeRule, styleRule } from './rules.ts'

const packages = readPackages()
const NAMES = [
  'core', 'crypto', 'ip', 'wireguard', 'cryptokey-router', 'packet-filter', 'nat-traversal', 'derp', 'netstack', 'magicdns',
  'policy', 'control-protocol', 'control-client', 'control-server', 'mesh', 'runtime-node', 'testkit',
]

test('the house has its 16 packages and the testkit', () => {
  expect(packages.map((each) => each.name).sort()).toEqual([...NAMES].sort())
})

describe.each(packages)('$name', (house) => {
  test('imports strictly lower floors, as its manifest says', () => expect(floorRule(house, packages)).toEqual([]))
  test('reads no clock, randomness or Node below floor 6', () => expect(purityRule(house)).toEqual([]))
  test('has an index of exports alone', () => expect(indexRule(house)).toEqual([]))
  test('has small files', () => expect(sizeRule(house)).toEqual([]))
  test('keeps the checker awake', () => expect(styleRule(house)).toEqual([]))
  test('holds every machine to the laws', () => expect(machineRule(house)).toEqual([]))
  test('has the shape of a publishable package', () => expect(shapeRule(house, '0.1.0')).toEqual([]))
  test('has a README with a program and its output', () => expect(readmeRule(house)).toEqual([]))
})

test.each(packages.filter((each) => typeof each.floor === 'number' && each.floor <= 5))('$name bundles for the browser with nothing left out', async (house) => {
  await bundle(`export * from '@meshwright/${house.name}'`)
})

test.each(packages.filter((each) => typeof each.floor === 'number' && each.floor <= 5))('$name loads in a bare realm that has the language and nothing else', async (house) => {
  const [file] = await bundle(`import * as all from '@meshwright/${house.name}'\nresult = all`, 'iife')
  const realm: { result?: object } = Object.create(null) as { result?: object }
  runInNewContext(`let result;${file?.text ?? ''};this.result = result`, realm)
  expect(Object.keys(realm.result ?? {}).length).toBeGreaterThan(0)
})

test('examples and tests keep to the sizes too, and silence no checker', () => {
  const files = ['examples', 'tests', 'benchmarks'].flatMap((folder) => sourceFiles(path.join(ROOT, folder), folder)).filter((file) => !file.path.startsWith('tests/house/'))
  const rest: HousePackage = { ...fixture({}), name: 'repository', files }
  expect([...sizeRule(rest), ...styleRule(rest)].filter((each) => !(each.what === 'has a default export' && each.where.endsWith('.config.ts')))).toEqual([])
})

test('the repository names no path of a machine and no registry host', () => {
  const lock = readFileSync(path.join(ROOT, 'package-lock.json'), 'utf8')
  expect(lock).not.toMatch(/"resolved": "http/)
})

describe('every rule catches what breaks it', () => {
  const core = fixture({}, { name: 'core', floor: 0 })
  const siblings = [core, fixture({}, { name: 'derp', floor: 2 }), fixture({}, { name: 'mesh', floor: 5 })]

  test.each([
    ['an import of a sibling', `import { x } from '@meshwright/derp'`],
    ['an import of a higher floor', `import { x } from '@meshwright/mesh'`],
    ['a re-export of a sibling', `export { x } from '@meshwright/derp'`],
    ['an import that the manifest does not name', `import { x } from 'left-pad'`],
  ])('floors: %s', (_what, text) => expect(floorRule(fixture({ 'src/a.ts': text }, { name: 'netstack', floor: 2 }), siblings)).not.toEqual([]))

  test('floors: a dependency on a sibling in the manifest', () => {
    const house = fixture({}, { name: 'netstack', floor: 2, dependencies: { '@meshwright/derp': '0.1.0' } })
    expect(floorRule(house, siblings)).not.toEqual([])
  })

  test.each([
    'const now = Date.now()', 'const d = new Date()', 'Math.random()', 'globalThis.x = 1', 'setTimeout(f, 1)', 'process.exit()', 'Buffer.from([])',
    'console.log(1)', 'performance.now()', "import fs from 'node:fs'", 'new TextEncoder()', 'const t = `${Date.now()}`', 'randomBytes(4)',
  ])('purity: %s', (text) => expect(purityRule(fixture({ 'src/a.ts': text }))).not.toEqual([]))

  test('purity: words in comments and strings are not code', () => {
    expect(purityRule(fixture({ 'src/a.ts': "// Date.now()\n/* Math.random */ const a = 'setTimeout(x)'; const b = `globalThis`" }))).toEqual([])
  })

  test.each(['export const a = 1', "import { x } from './x.ts'\nexport { x }", 'let y = 2'])('exports: %s', (text) => expect(indexRule(fixture({ 'src/index.ts': text }))).not.toEqual([]))
  test('sizes: 501 lines, and 801 in a test', () => {
    expect(sizeRule(fixture({ 'src/a.ts': 'x\n'.repeat(501) }))).not.toEqual([])
    expect(sizeRule(fixture({ 'src/a.test.ts': 'x\n'.repeat(801) }))).not.toEqual([])
    expect(sizeRule(fixture({ 'src/a.ts': 'x\n'.repeat(500) }))).toEqual([])
  })

  test.each(['let a: any', 'f(x as any)', 'const m = new Map<string, any>()', 'enum A { b }', 'export default 1', 'try { f() } catch {}', 'try { f() } catch (e) { }', '// @ts-ignore'])(
    'style: %s',
    (text) => expect(styleRule(fixture({ 'src/a.ts': text }))).not.toEqual([]),
  )

  test('machine laws: a machine without a test that calls them', () => {
    const machine = 'export class Thing implements Machine<I, O> {}'
    expect(machineRule(fixture({ 'src/a.ts': machine }))).not.toEqual([])
    expect(machineRule(fixture({ 'src/a.ts': machine, 'src/a.test.ts': 'machineLaws({ make: () => new Other() })' }))).not.toEqual([])
    expect(machineRule(fixture({ 'src/a.ts': machine, 'src/a.test.ts': 'machineLaws({ make: () => new Thing() })' }))).toEqual([])
  })

  test('shape: another version, a leaky export condition, a private package', () => {
    const good = fixture({})
    expect(shapeRule(good, '0.1.0')).toEqual([])
    expect(shapeRule(good, '0.2.0')).not.toEqual([])
    expect(shapeRule({ ...good, manifest: { ...good.manifest, private: true } }, '0.1.0')).not.toEqual([])
    expect(shapeRule({ ...good, manifest: { ...good.manifest, exports: { '.': { source: './src/index.ts', default: './dist/index.js' } } } }, '0.1.0')).not.toEqual([])
  })

  test('readme: none, none with a program, one without output', () => {
    expect(readmeRule({ ...core, readme: undefined })).not.toEqual([])
    expect(readmeRule({ ...core, readme: '# Words' })).not.toEqual([])
    expect(readmeRule({ ...core, readme: '```ts\nf()\n```' })).not.toEqual([])
    expect(readmeRule({ ...core, readme: '```ts\nf()\n```\n\n```text\n1\n```' })).toEqual([])
  })

  test('browser bundle: an import of node:fs', async () => {
    await expect(bundle("import { readFileSync } from 'node:fs'\nexport const x = readFileSync")).rejects.toThrow(/node:fs/)
  })
})

async function bundle(contents: string, format: 'esm' | 'iife' = 'esm'): Promise<readonly OutputFile[]> {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: path.join(ROOT, 'packages', 'mesh'), loader: 'ts' },
    nodePaths: [path.join(ROOT, 'node_modules')],
    bundle: true,
    write: false,
    platform: 'browser',
    format,
    target: 'es2022',
    conditions: ['@meshwright/source'],
    logLevel: 'silent',
  })
  return outputFiles
}

function fixture(files: Readonly<Record<string, string>>, more: { name?: string; floor?: number; dependencies?: Record<string, string> } = {}): HousePackage {
  const name = more.name ?? 'fixture'
  return {
    name,
    floor: more.floor ?? 2,
    runtime: 'any',
    manifest: {
      name: `@meshwright/${name}`,
      version: '0.1.0',
      type: 'module',
      sideEffects: false,
      license: 'MIT',
      files: ['dist', 'src'],
      exports: { '.': { '@meshwright/source': './src/index.ts', types: './dist/index.d.ts', default: './dist/index.js' } },
      dependencies: { '@meshwright/core': '0.1.0', ...more.dependencies },
      meshwright: { floor: more.floor ?? 2, runtime: 'any' },
    },
    files: Object.entries(files).map(([path, text]) => ({ path, text })),
    readme: undefined,
  }
}
