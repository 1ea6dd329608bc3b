import { codeOf, type HousePackage, importsOf, isTest, type Violation } from './repository.ts'

const SOURCE_LINES = 500
const TEST_LINES = 800
const SCOPE = '@meshwright/'

/** What floors 0 to 5 must not read: clock, randomness, Node, DOM, timers. */
const IMPURE: readonly (readonly [RegExp, string])[] = [
  [/\bnew Date\b|\bDate\s*\./, 'the wall clock (Date)'],
  [/\bDate\(/, 'the wall clock (Date)'],
  [/\bperformance\s*\./, 'the clock (performance)'],
  [/\bMath\.random\b/, 'randomness (Math.random)'],
  [/\brandomBytes\b/, 'randomness (randomBytes)'],
  [/\bglobalThis\b/, 'the global object'],
  [/\b(setTimeout|setInterval|setImmediate|queueMicrotask)\s*\(/, 'a timer'],
  [/\bprocess\s*\./, 'the process'],
  [/\bBuffer\s*[.(]/, 'Node Buffers'],
  [/\bconsole\s*\./, 'the console'],
  [/\b(fetch|TextEncoder|TextDecoder|structuredClone)\s*\(/, 'a platform function'],
  [/\bnew (TextEncoder|TextDecoder|WebSocket|Worker)\b/, 'a platform class'],
  [/\b(window|document|navigator)\s*\./, 'the DOM'],
]

/** Rule 1: a package imports strictly lower floors, and only what its manifest names. */
export function floorRule(house: HousePackage, all: readonly HousePackage[]): Violation[] {
  const floors = new Map(all.map((each) => [SCOPE + each.name, each]))
  const declared = new Set(Object.keys(house.manifest.dependencies ?? {}))
  const declaredForTests = new Set([...declared, ...Object.keys(house.manifest.devDependencies ?? {})])
  const found: Violation[] = []
  for (const name of declared) if (floors.has(name) && !isLower(house, floors.get(name))) found.push(violation('floors', house, 'package.json', `depends on ${name}, which is not on a lower floor`))
  for (const file of house.files) {
    for (const specifier of importsOf(file.text)) {
      if (specifier.startsWith('.') || specifier.startsWith('node:')) continue
      const name = specifier.split('/').slice(0, specifier.startsWith('@') ? 2 : 1).join('/')
      const target = floors.get(name)
      if (isTest(file)) {
        if (name.startsWith(SCOPE) && !declaredForTests.has(name)) found.push(violation('floors', house, file.path, `imports ${name}, which package.json does not name`))
        continue
      }
      if (target !== undefined && !isLower(house, target)) found.push(violation('floors', house, file.path, `imports ${name}, which is not on a lower floor`))
      if (!declared.has(name) && !Object.hasOwn(optionalDependencies(house), name)) found.push(violation('floors', house, file.path, `imports ${name}, which package.json does not name`))
    }
  }
  return found
}

/** Rule 2: floors 0 to 5 read no clock, no randomness, no Node. */
export function purityRule(house: HousePackage): Violation[] {
  if (house.floor === 'testkit' || house.floor > 5) return []
  const found: Violation[] = []
  for (const file of house.files.filter((each) => !isTest(each))) {
    const code = codeOf(file.text)
    for (const [pattern, what] of IMPURE) if (pattern.test(code)) found.push(violation('purity', house, file.path, `reads ${what}`))
    for (const specifier of importsOf(file.text)) if (specifier.startsWith('node:')) found.push(violation('purity', house, file.path, `imports ${specifier}`))
  }
  return found
}

/** Rule 3: an index holds exports and nothing else. */
export function indexRule(house: HousePackage): Violation[] {
  const index = house.files.find((file) => file.path === 'src/index.ts')
  if (index === undefined) return [violation('exports', house, 'src/index.ts', 'is missing')]
  return house.files
    .filter((file) => /(^|\/)index\.ts$/.test(file.path))
    .flatMap((file) => {
      const rest = codeOf(file.text).replace(/export\s+(type\s+)?(\*(\s+as\s+\w+)?|\{[^}]*\})\s+from\s+(''|"")\s*;?/g, '').trim()
      return rest === '' ? [] : [violation('exports', house, file.path, `holds more than exports: ${rest.slice(0, 60)}`)]
    })
}

/** Rule 4: files stay small. */
export function sizeRule(house: HousePackage): Violation[] {
  return house.files.flatMap((file) => {
    const lines = file.text.split('\n').length - 1
    const limit = isTest(file) ? TEST_LINES : SOURCE_LINES
    return lines > limit ? [violation('sizes', house, file.path, `has ${lines} lines, at most ${limit}: split it by idea`)] : []
  })
}

/** Rule 5: the checker is never silenced, and the language stays erasable. */
export function styleRule(house: HousePackage): Violation[] {
  const forbidden: readonly (readonly [RegExp, string])[] = [
    [/(:|<|\bas|,|\|)\s*any\b(?!\w|\s*\??[:(])/, 'uses any'], // a member may be called any
    [/\benum\s+\w+\s*\{/, 'declares an enum'],
    [/\bexport\s+default\b/, 'has a default export'],
    [/\bcatch\s*(\([^)]*\))?\s*\{\s*\}/, 'swallows an error'],
  ]
  return house.files.flatMap((file) => {
    const code = codeOf(file.text)
    const found = forbidden.filter(([pattern]) => pattern.test(code)).map(([, what]) => violation('style', house, file.path, what))
    if (/@ts-(ignore|nocheck|expect-error)|eslint-disable|biome-ignore/.test(file.text)) found.push(violation('style', house, file.path, 'silences a checker'))
    return found
  })
}

/** Rule 6: every machine is held to the machine laws by a test of its package. */
export function machineRule(house: HousePackage): Violation[] {
  const tests = house.files.filter((file) => isTest(file) && /\bmachineLaws\b/.test(file.text))
  return house.files
    .filter((file) => !isTest(file))
    .flatMap((file) => [...codeOf(file.text).matchAll(/\bclass\s+(\w+)[^{]*\bimplements\s+[^{]*\bMachine</g)].map((match) => [file, match[1] ?? ''] as const))
    .filter(([, name]) => !tests.some((test) => new RegExp(`\\b${name}\\b`).test(test.text)))
    .map(([file, name]) => violation('machine-laws', house, file.path, `no test of the package calls machineLaws for ${name}`))
}

/** Rule 7: the shape of a publishable package. */
export function shapeRule(house: HousePackage, version: string): Violation[] {
  const { manifest } = house
  const found: Violation[] = []
  const expect = (holds: boolean, what: string): void => {
    if (!holds) found.push(violation('shape', house, 'package.json', what))
  }
  expect(manifest.name === SCOPE + house.name, 'the name is not the folder under the scope')
  expect(manifest.version === version, `the version is not ${version}: all packages share one`)
  expect(manifest.private !== true, 'is private')
  expect(manifest.type === 'module' && manifest.sideEffects === false && manifest.license === 'MIT', 'lacks type module, sideEffects false or the licence')
  expect((manifest.files ?? []).includes('dist') && (manifest.files ?? []).includes('src'), 'does not ship dist and src')
  expect(manifest.meshwright?.floor !== undefined && manifest.meshwright.runtime !== undefined, 'does not say its floor and runtime')
  for (const [entry, target] of Object.entries(manifest.exports ?? {})) {
    if (entry === './package.json') continue
    const conditions = typeof target === 'object' && target !== null ? Object.keys(target) : []
    expect(conditions.join() === '@meshwright/source,types,default', `export ${entry} has the conditions ${conditions.join()}`)
  }
  expect(manifest.exports?.['.'] !== undefined, 'has no main export')
  return found
}

/** Rule 8: every package has a README whose first program is about 20 lines and whose output stands below it. */
export function readmeRule(house: HousePackage): Violation[] {
  if (house.readme === undefined) return [violation('readme', house, 'README.md', 'is missing')]
  const example = readmeExample(house.readme)
  if (example === undefined) return [violation('readme', house, 'README.md', 'has no ```ts program followed by its ```text output')]
  const lines = example.program.trim().split('\n').length
  return lines > 40 ? [violation('readme', house, 'README.md', `its first program has ${lines} lines; a reader wants about 20`)] : []
}

/** The first program of a README and the output that it promises. */
export function readmeExample(readme: string): { readonly program: string; readonly output: string } | undefined {
  const match = /```ts\n([\s\S]*?)```[\s\S]*?```text\n([\s\S]*?)```/.exec(readme)
  return match === null ? undefined : { program: match[1] ?? '', output: match[2] ?? '' }
}

function optionalDependencies(house: HousePackage): Readonly<Record<string, string>> {
  const manifest = house.manifest as { readonly optionalDependencies?: Readonly<Record<string, string>> }
  return manifest.optionalDependencies ?? {}
}

function isLower(house: HousePackage, target: HousePackage | undefined): boolean {
  if (target === undefined) return false
  if (target.floor === 'testkit') return false
  if (house.floor === 'testkit') return target.name === 'core' || target.name === 'ip'
  return target.floor < house.floor
}

function violation(rule: string, house: HousePackage, file: string, what: string): Violation {
  return { rule, where: `${house.name}/${file}`, what }
}
