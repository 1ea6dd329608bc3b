import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { REFUSED, UNKNOWN, VERBS_BESIDE } from '../interop/cli-flags.ts'
import { readPackages, ROOT } from './repository.ts'

// docs/what-works.md says what shows each promise of a README: the words must stand there, and what shows them must be there. Beside it: whatever a README
// names (commands, options, exports, files, figures) exists.
const read = (file: string): string => readFileSync(path.join(ROOT, file), 'utf8')
const plain = (text: string): string => text.replace(/\s+/g, ' ')

interface Promised {
  readonly readme: string
  readonly words: string
  readonly by: string
}

const promises: readonly Promised[] = read('docs/what-works.md').split(/^## /m).slice(1).flatMap((section) => {
  const readme = section.split('\n')[0] ?? ''
  return [...section.matchAll(/^\| (?!promise|---)(.+) \| (\w+ `.+) \|$/gm)].map((match) => ({ readme, words: match[1] ?? '', by: match[2] ?? '' }))
})
const matrix: readonly string[] = read('docs/interop.md').split('\n').map((line) => line.split(' | ')[1] ?? '')
const scripts = Object.keys((JSON.parse(read('package.json')) as { readonly scripts: object }).scripts) // our own

/** What is wrong with what shows a promise; `undefined` when it is there. */
function missing(by: string): string | undefined {
  const [, kind = '', first = '', second = '', rest = ''] = /^(\w+) `([^`]+)`(?: `((?:[^`])+)`)?(.*)$/.exec(by) ?? []
  switch (kind) {
    case 'flow':
      return matrix.includes(first) ? undefined : 'no such flow in docs/interop.md'
    case 'test':
      return existsSync(path.join(ROOT, first)) && read(first).includes(`('${second}'`) ? undefined : `${first} has no such test`
    case 'number':
      return sourcesOf(first).some((text) => new RegExp(`\\b${second.replace(/[*.]/g, '\\$&')}(?![\\d_.])`).test(text)) ? undefined : `${first} has no such number`
    case 'command':
      return scripts.includes(/^npm run (\S+)/.exec(first)?.[1] ?? '') ? undefined : 'no such script'
    case 'figure': {
      const [, least, most] = /^ from ([\d.]+) to ([\d.]+)$/.exec(rest) ?? []
      const found = figure(first, second)
      return found !== undefined && found >= Number(least) && found <= Number(most) ? undefined : `the record says ${found}`
    }
    default:
      return 'is of no known kind'
  }
}

/** A ratio as it was recorded. */
function figure(file: string, name: string): number | undefined {
  const record = JSON.parse(read(`benchmarks/baselines/${file}`)) as { readonly figures?: readonly { readonly name: string; readonly ratio: number }[]; readonly control?: readonly Readonly<Record<string, string | number>>[] } // our own
  const [what = '', clients, policy] = name.split(' ')
  const of = (server: string): number => Number(record.control?.find((each) => each['server'] === server && each['clients'] === Number(clients) && each['policy'] === policy)?.[what])
  return record.control === undefined ? record.figures?.find((each) => each.name === name)?.ratio : of('ours') / of('headscale')
}

describe('every promise', () => {
  test('is written where it is said to be, word for word', () => {
    expect(promises.length).toBeGreaterThan(70)
    expect(promises.filter(({ readme, words }) => !plain(read(readme)).includes(words))).toEqual([])
  })

  test('is shown by something that is there', () => {
    expect(promises.flatMap((each) => (missing(each.by) === undefined ? [] : [{ ...each, wrong: missing(each.by) }]))).toEqual([])
  })

  test('of "What works today" has something that shows it: no line is without', () => {
    const works = /^Works, .*$([\s\S]*?)^Does not work yet/m.exec(read('README.md'))?.[1] ?? ''
    const lines = works.split(/^- /m).slice(1).map(plain)
    expect(lines.length).toBeGreaterThan(6)
    expect(lines.filter((line) => !promises.some(({ readme, words }) => readme === 'README.md' && line.includes(words)))).toEqual([])
  })

  test.each(['flow `no such flow`', 'test `tests/house/house.test.ts` `no such test`', 'number `packages/runtime-node/src` `DEFAULT_PROBED = 9`', 'command `npm run nothing`', 'figure `userspace.json` `userspace-throughput` from 0.8 to 0.9', 'word `x`'])('that %s would show is found out', (by) => {
    expect(missing(by)).toBeDefined()
  })
})

const documents: readonly string[] = [
  'README.md', 'CONTRIBUTING.md', 'SECURITY.md',
  ...['docs', 'benchmarks'].flatMap((folder) => readdirSync(path.join(ROOT, folder)).filter((name) => name.endsWith('.md')).map((name) => `${folder}/${name}`)),
  ...['packages', 'examples'].flatMap((folder) => readdirSync(path.join(ROOT, folder)).map((name) => `${folder}/${name}/README.md`)).filter((file) => existsSync(path.join(ROOT, file))),
]

describe('what documents name exists', () => {
  test.each(documents)('%s: files that it links to, and scripts, suites and test files that it has one run', (file) => {
    const text = read(file)
    const links = [...text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map((match) => path.join(path.dirname(file), match[1] ?? ''))
    const commands = [...text.matchAll(/npm run (?:-s )?([a-z][a-z:]*)/g)].map((match) => match[1] ?? '')
    const suites = [...text.matchAll(/npm run test:interop -- ((?:[a-z][\w.-]* ?)*)/g)].flatMap((match) => (match[1] ?? '').trim().split(' ')).filter((word) => word !== '')
    const files = [...text.matchAll(/`(?:npx vitest run )?((?:tests|packages|examples|benchmarks|docs)\/[\w./-]+\.(?:ts|mjs|md|json))`/g)].map((match) => match[1] ?? '')
    const present = readdirSync(path.join(ROOT, 'tests/interop')).filter((name) => name.endsWith('.interop.test.ts'))
    expect(links.filter((link) => !existsSync(path.join(ROOT, link)))).toEqual([])
    expect(commands.filter((command) => !scripts.includes(command))).toEqual([])
    expect(suites.filter((word) => !present.some((name) => `tests/interop/${name}`.includes(word)))).toEqual([])
    expect(files.filter((each) => !existsSync(path.join(ROOT, each)))).toEqual([])
  })

  test.each(readPackages().filter(({ readme }) => readme?.includes('## Main exports')))('the main exports of $name', (house) => {
    const table = /## Main exports\n([\s\S]*?)(\n## |$)/.exec(house.readme ?? '')?.[1] ?? ''
    const named = [...table.matchAll(/^\| (.+?) \|/gm)].flatMap((row) => [...(row[1] ?? '').matchAll(/`(\w+)`/g)].map((match) => match[1] ?? ''))
    const exported = house.files.filter((each) => /(^|\/)index\.ts$|(^|\/)(relay|control)\.ts$/.test(each.path)).map((each) => each.text).join('\n')
    expect(named.filter((name) => !new RegExp(`\\b${name}\\b`).test(exported))).toEqual([])
  })

  test('flags of the daemon and of the command line in examples/node/README.md', () => {
    const known = [...sourcesOf('examples/node/src'), ...sourcesOf('examples/node/packaging')].join('\n')
    const own = read('examples/node/README.md').replace(/^curl .*$/gm, '')
    const flags = [...own.matchAll(/--([a-z][a-z0-9-]+)/g)].map((match) => match[1] ?? '')
    expect(flags.length).toBeGreaterThan(15)
    expect([...new Set(flags)].filter((flag) => !new RegExp(`^ +'?${flag}'?: `, 'm').test(known))).toEqual([])
  })

  test('steps of the demo in the README', () => {
    const steps = [...read('README.md').matchAll(/^ {2}✓ +[\d.]+ s {2}(.+)$/gm)].map((match) => match[1] ?? '')
    const source = ['proof', 'demo-mesh', 'main'].map((name) => read(`examples/demo/src/${name}.ts`)).join('\n').replaceAll("\\'", "'")
    expect(read('README.md')).toContain(`All ${steps.length} steps hold`)
    expect(steps.filter((step) => !source.includes(step))).toEqual([])
  })
})

describe('docs/cli-differences.md', () => {
  const text = read('docs/cli-differences.md')

  test('names every flag that is refused or not known, and no other', () => {
    const flags = [...Object.keys(REFUSED), ...Object.keys(UNKNOWN)].map((each) => each.split(' ').at(-1) ?? '')
    expect(flags.filter((flag) => !text.includes(`${flag}\``))).toEqual([])
    const said = [...text.matchAll(/^\| (.+) \| refused by name.*\|$/gm)].flatMap((row) => [...(row[1] ?? '').matchAll(/`(?:\w+ )?(--[a-z-]+)`/g)].map((match) => match[1] ?? ''))
    expect(said.length).toBeGreaterThan(10)
    expect(said.filter((flag) => !flags.includes(flag))).toEqual([])
  })

  test('names every verb of the usual command line that ours has not, with what becomes of it on our socket', () => {
    const table = /^\| verb \|.*\n\|---.*\n((?:\|.*\n)+)/m.exec(text)?.[1] ?? ''
    const said = [...table.matchAll(/^\| (.+?) \|/gm)].flatMap((row) => [...(row[1] ?? '').matchAll(/`([a-z-]+)`/g)].map((match) => match[1] ?? ''))
    expect([...said].sort()).toEqual([...VERBS_BESIDE].sort())
  })
})

function sourcesOf(folder: string): readonly string[] {
  return readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts')).map((name) => read(path.join(folder, name)))
}

/** Rows of a table: the name in backticks, and the numbers behind it. */
function rows(text: string): ReadonlyMap<string, readonly number[]> {
  return new Map([...text.matchAll(/^\| `?([a-z][a-z0-9-]+)`?(?::[^|]*)? \|(.+)\|$/gm)].map((match) => [match[1] ?? '', [...(match[2] ?? '').matchAll(/-?\d+(?:\.\d+)?/g)].map((each) => Number(each[0]))]))
}

describe('figures in documents are those of the record', () => {
  test.each([
    ['packages/runtime-node/README.md', 'dataplane.json', ['ratio', 'min', 'max', 'own', 'other']],
    ['benchmarks/userspace.md', 'userspace.json', ['ratio', 'min', 'max', 'ours', 'baseline']],
  ] as const)('%s', (file, record, fields) => {
    const table = rows(read(file))
    const { figures } = JSON.parse(read(`benchmarks/baselines/${record}`)) as { readonly figures: readonly Readonly<Record<string, number | string | undefined>>[] } // our own
    const wrong = figures.flatMap((each) => {
      const shown = table.get(String(each['name'])) ?? []
      return fields.flatMap((field, i) => {
        const [recorded, told] = [each[field], shown[i]]
        if (typeof recorded !== 'number' || told === undefined) return []
        return Math.abs(told - recorded) <= 0.006 + 0.015 * Math.abs(recorded) ? [] : [`${String(each['name'])}: ${field} is ${recorded}, the document says ${told}`]
      })
    })
    expect(table.size).toBeGreaterThan(4)
    expect(wrong).toEqual([])
  })
})
