import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** The root folder of the repository. */
export const ROOT: string = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')

/** One source file: where it is (relative to its package) and what it says. */
export interface SourceFile {
  readonly path: string
  readonly text: string
}

/** A package as the house rules see it. */
export interface HousePackage {
  readonly name: string
  /** 0 to 7, or `testkit`. */
  readonly floor: number | 'testkit'
  readonly runtime: string
  readonly manifest: Manifest
  readonly files: readonly SourceFile[]
  readonly readme: string | undefined
}

/** The parts of a package.json that the rules read. */
export interface Manifest {
  readonly name: string
  readonly version?: string
  readonly private?: boolean
  readonly type?: string
  readonly sideEffects?: boolean
  readonly license?: string
  readonly files?: readonly string[]
  readonly exports?: Readonly<Record<string, unknown>>
  readonly dependencies?: Readonly<Record<string, string>>
  readonly devDependencies?: Readonly<Record<string, string>>
  readonly meshwright?: { readonly floor?: number | 'testkit'; readonly runtime?: string }
}

/** A broken rule: where, and what is wrong. */
export interface Violation {
  readonly rule: string
  readonly where: string
  readonly what: string
}

/** Reads every package under `packages/`. */
export function readPackages(folder: string = path.join(ROOT, 'packages')): readonly HousePackage[] {
  return readdirSync(folder)
    .filter((name) => existsSync(path.join(folder, name, 'package.json')))
    .map((name) => readPackage(path.join(folder, name)))
}

/** Reads one package. */
export function readPackage(folder: string): HousePackage {
  const manifest = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as Manifest
  const readme = path.join(folder, 'README.md')
  return {
    name: path.basename(folder),
    floor: manifest.meshwright?.floor ?? 7,
    runtime: manifest.meshwright?.runtime ?? 'node',
    manifest,
    files: sourceFiles(path.join(folder, 'src'), 'src'),
    readme: existsSync(readme) ? readFileSync(readme, 'utf8') : undefined,
  }
}

/** All TypeScript files below a folder. */
export function sourceFiles(folder: string, prefix: string): readonly SourceFile[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    if (entry.name === 'node_modules' || entry.name === 'dist') return []
    const relative = `${prefix}/${entry.name}`
    if (entry.isDirectory()) return sourceFiles(path.join(folder, entry.name), relative)
    return entry.name.endsWith('.ts') ? [{ path: relative, text: readFileSync(path.join(folder, entry.name), 'utf8') }] : []
  })
}

/** True for tests and benchmarks beside the sources. */
export function isTest(file: SourceFile): boolean {
  return /\.(test|bench)\.ts$/.test(file.path)
}

/** A source without comments and without what stands in string literals: what the rules of purity look at. */
export function codeOf(text: string): string {
  let code = ''
  for (let i = 0; i < text.length; ) {
    const two = text.slice(i, i + 2)
    const one = text.charAt(i)
    if (two === '//') {
      while (i < text.length && text.charAt(i) !== '\n') i += 1
    } else if (two === '/*') {
      const end = text.indexOf('*/', i + 2)
      i = end < 0 ? text.length : end + 2
      code += ' '
    } else if (one === '/' && /(^|[=(,:;!&|?{}[\n]|return|=>)\s*$/.test(code.slice(-20))) {
      i = regexEnd(text, i)
      code += '/x/'
    } else if (one === "'" || one === '"') {
      i = stringEnd(text, i, one)
      code += `${one}${one}`
    } else if (one === '`') {
      const [end, inner] = template(text, i)
      code += `\`${inner}\``
      i = end
    } else {
      code += one
      i += 1
    }
  }
  return code
}

function stringEnd(text: string, start: number, quote: string): number {
  let i = start + 1
  while (i < text.length && text.charAt(i) !== quote && text.charAt(i) !== '\n') i += text.charAt(i) === '\\' ? 2 : 1
  return i + 1
}

function regexEnd(text: string, start: number): number {
  let inClass = false
  for (let i = start + 1; i < text.length; i += 1) {
    const c = text.charAt(i)
    if (c === '\\') i += 1
    else if (c === '[') inClass = true
    else if (c === ']') inClass = false
    else if (c === '\n') return i
    else if (c === '/' && !inClass) return i + 1
  }
  return text.length
}

// The literal parts of a template go, the expressions in it stay.
function template(text: string, start: number): readonly [number, string] {
  let code = ''
  let i = start + 1
  while (i < text.length && text.charAt(i) !== '`') {
    if (text.charAt(i) === '\\') i += 2
    else if (text.startsWith('${', i)) {
      let depth = 1
      let end = i + 2
      while (end < text.length && depth > 0) {
        const c = text.charAt(end)
        if (c === "'" || c === '"') {
          end = stringEnd(text, end, c)
          continue
        }
        if (c === '`') {
          end = template(text, end)[0]
          continue
        }
        if (c === '{') depth += 1
        else if (c === '}') depth -= 1
        end += 1
      }
      code += `\${${codeOf(text.slice(i + 2, end - 1))}}`
      i = end
    } else i += 1
  }
  return [i + 1, code]
}

/** The specifiers of all imports and re-exports of a source. */
export function importsOf(text: string): readonly string[] {
  const found: string[] = []
  for (const match of text.matchAll(/^\s*(?:import|export)\s[^'"`;]*?from\s+['"]([^'"]+)['"]|^\s*import\s+['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)/gm)) {
    found.push(match[1] ?? match[2] ?? match[3] ?? '')
  }
  return found
}
