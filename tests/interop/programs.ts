import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

/** Where a program comes from: always a registry or our own sources, always by name and version. */
export type Source =
  /** `go install PACKAGE@VERSION`. */
  | { readonly kind: 'go'; readonly goPackage: string }
  /** A package of a module whose own module file cannot be installed from, so it gets one that requires it. */
  | { readonly kind: 'go-module'; readonly module: string; readonly goPackage: string }
  /** A small Go program of ours: `tests/interop/go/FOLDER` with its own go.mod (and go.sum). Its version is the hash of its sources. */
  | { readonly kind: 'go-own'; readonly folder: string }
  /** `cargo install CRATE --version VERSION --locked`. */
  | { readonly kind: 'cargo'; readonly crate: string }
  /** The files of a Debian package, unpacked and not installed: for packages whose installation would change this computer. */
  | { readonly kind: 'debian-files'; readonly package: string; readonly file: string }

/** A real program that is met in tests. */
export interface Program {
  /** The name of its file. */
  readonly name: string
  /** As its registry writes it: `v1.102.5` for Go, `0.6.0` for crates. */
  readonly version: string
  readonly source: Source
  /** Only with `--all`. */
  readonly extra?: boolean
}

/** A program of the operating system and the Debian package that has it. */
export interface SystemProgram {
  readonly name: string
  readonly debian: string
}

const OWN_GO = path.join(import.meta.dirname, 'go')

/** The newest that this Go builds, and the oldest that headscale supports. */
export const TAILSCALE_NEWEST = '1.102.5'
export const TAILSCALE_OLDEST = '1.80.3'
/** More releases, with `--all`. */
export const TAILSCALE_EXTRA: readonly string[] = ['1.84.3', '1.88.1', '1.92.5', '1.96.5', '1.98.10', '1.100.0']

function tailscale(version: string, extra: boolean, names: readonly string[] = ['tailscaled', 'tailscale']): readonly Program[] {
  return names.map((name) => ({ name, version: `v${version}`, source: { kind: 'go', goPackage: `tailscale.com/cmd/${name}` }, extra }))
}

function own(folder: string): Program {
  return { name: folder, version: hashOfFolder(path.join(OWN_GO, folder)), source: { kind: 'go-own', folder } }
}

/** Every program; of several versions of one name the first is the one that is meant when nobody says which. */
export const PROGRAMS: readonly Program[] = [
  ...tailscale(TAILSCALE_NEWEST, false, ['tailscaled', 'tailscale', 'derper']),
  ...tailscale(TAILSCALE_OLDEST, false),
  ...TAILSCALE_EXTRA.flatMap((version) => tailscale(version, true)),
  { name: 'wireguard', version: 'v0.0.0-20260522210424-ecfc5a8d5446', source: { kind: 'go', goPackage: 'golang.zx2c4.com/wireguard' } },
  { name: 'headscale', version: 'v0.29.3', source: { kind: 'go-module', module: 'github.com/juanfont/headscale', goPackage: 'github.com/juanfont/headscale/cmd/headscale' } },
  { name: 'boringtun-cli', version: '0.7.1', source: { kind: 'cargo', crate: 'boringtun-cli' } },
  // Installed, it would take over /etc/resolv.conf.
  { name: 'resolvconf', version: 'debian', source: { kind: 'debian-files', package: 'openresolv', file: 'sbin/resolvconf' } },
  // Installed, it would do the same; resolvectl comes with it.
  { name: 'systemd-resolved', version: 'debian', source: { kind: 'debian-files', package: 'systemd-resolved', file: 'lib/systemd/systemd-resolved' } },
  // Every folder of ours that has a go.mod.
  ...(existsSync(OWN_GO) ? readdirSync(OWN_GO).filter((folder) => existsSync(path.join(OWN_GO, folder, 'go.mod'))).sort().map(own) : []),
]

/** What is needed of the operating system. */
export const SYSTEM_PROGRAMS: readonly SystemProgram[] = [
  { name: 'ip', debian: 'iproute2' },
  { name: 'wg', debian: 'wireguard-tools' },
  { name: 'nft', debian: 'nftables' },
  { name: 'wireguard-go', debian: 'wireguard-go' },
  { name: 'tcpdump', debian: 'tcpdump' },
  { name: 'ping', debian: 'iputils-ping' },
  { name: 'ssh', debian: 'openssh-client' },
  { name: 'iperf3', debian: 'iperf3' },
  { name: 'chromium', debian: 'chromium' },
  { name: 'dbus-daemon', debian: 'dbus' },
  { name: 'systemd-analyze', debian: 'systemd' },
]

/** The folder, outside the repository, where installed programs are kept between runs. */
export function cacheFolder(): string {
  return process.env['MESHWRIGHT_INTEROP_CACHE'] ?? path.join(os.homedir(), '.cache', 'meshwright-interop')
}

/** Where a program is once it is installed. */
export function programPath(program: Program): string {
  return path.join(cacheFolder(), `${program.name}@${program.version}`, program.name)
}

/** `tailscaled@1.102.5`: how a program is called in the matrix and in the folder that the suites see. */
export function programLabel(program: Program): string {
  return `${program.name}@${program.version.replace(/^v/, '')}`
}

/** How an installation ended. */
export interface Installed {
  readonly program: Program
  readonly path: string | undefined
  /** Why it is missing. */
  readonly reason: string | undefined
  /** Time of building; 0 when it was there. */
  readonly seconds: number
}

/**
 * Installs what is missing, two builds at a time: compiling uses all cores, but fetching and linking do not.
 * @param wants which of the programs beyond the usual are wanted
 */
export async function installAll(say: (line: string) => void, wants: (extra: Program) => boolean = () => false): Promise<readonly Installed[]> {
  const wanted = PROGRAMS.filter((program) => program.extra !== true || wants(program))
  const results = new Map<Program, Installed>(wanted.map((program) => [program, { program, path: programPath(program), reason: undefined, seconds: 0 }]))
  // Programs of one module in one version share one build.
  const jobs = new Map<string, Program[]>()
  for (const program of wanted.filter((each) => !existsSync(programPath(each)))) {
    const { source } = program
    const key = source.kind === 'go' ? `${source.goPackage.split('/')[0] ?? ''}@${program.version}` : `${source.kind} ${program.name}`
    jobs.set(key, [...(jobs.get(key) ?? []), program])
  }
  const queue = [...jobs.values()]
  const worker = async (): Promise<void> => {
    for (let job = queue.shift(); job !== undefined; job = queue.shift()) for (const result of await install(job, say)) results.set(result.program, result)
  }
  await Promise.all([worker(), worker()])
  return [...results.values()]
}

/** A folder with every installed program by its label, and by its bare name where it is the one that is meant. */
export function linkAll(installed: readonly Installed[], folder: string): void {
  const named = new Set<string>()
  for (const { program, path: file } of installed) {
    const first = !named.has(program.name)
    named.add(program.name)
    if (file === undefined) continue
    symlinkSync(file, path.join(folder, programLabel(program)))
    if (first) symlinkSync(file, path.join(folder, program.name))
  }
}

async function install(programs: readonly Program[], say: (line: string) => void): Promise<readonly Installed[]> {
  const what = programs.map(programLabel).join(', ')
  const started = Date.now()
  say(`installing ${what}...`)
  const bin = mkdtempSync(path.join(os.tmpdir(), 'meshwright-install-'))
  try {
    const { ok, said } = await build(programs, bin)
    const seconds = Math.round((Date.now() - started) / 1000)
    const results = programs.map((program): Installed => {
      const built = path.join(bin, program.name)
      if (!existsSync(built)) return { program, path: undefined, reason: `${programLabel(program)} could not be installed: ${said.trim().split('\n').slice(-3).join(' | ')}`, seconds }
      const target = programPath(program)
      mkdirSync(path.dirname(target), { recursive: true })
      // A copy beside the target first, so that an interrupted run never leaves half a program.
      const staged = `${target}.${process.pid}.new`
      cpSync(built, staged, { verbatimSymlinks: true })
      renameSync(staged, target)
      return { program, path: target, reason: undefined, seconds }
    })
    if (ok) say(`installed ${what} in ${seconds} s`)
    return results
  } finally {
    rmSync(bin, { recursive: true, force: true })
  }
}

function build(programs: readonly Program[], bin: string): Promise<Ran> {
  const [first] = programs
  if (first === undefined) throw new Error('nothing to build')
  const { source, version } = first
  switch (source.kind) {
    case 'go':
      return run('go', ['install', ...programs.map((each) => (each.source.kind === 'go' ? `${each.source.goPackage}@${each.version}` : ''))], { env: { GOBIN: bin, GOFLAGS: '' } })
    case 'go-module':
      return inCopy(undefined, (folder) => {
        writeFileSync(path.join(folder, 'go.mod'), `module x\n\ngo 1.26\n\nrequire ${source.module} ${version}\n`)
        return run('go', ['build', '-mod=mod', '-o', path.join(bin, first.name), source.goPackage], { cwd: folder })
      })
    case 'go-own':
      return inCopy(path.join(OWN_GO, source.folder), (folder) => run('go', ['build', '-mod=mod', '-o', path.join(bin, first.name), '.'], { cwd: folder }))
    case 'cargo':
      return buildCrate(source.crate, version, first.name, bin)
    case 'debian-files':
      return unpack(source.package, source.file, first, bin)
  }
}

// The whole package is kept beside the program, which is a link into it.
async function unpack(name: string, file: string, program: Program, bin: string): Promise<Ran> {
  const kept = path.join(path.dirname(programPath(program)), 'files')
  return inCopy(undefined, async (folder) => {
    const fetch = (): Promise<Ran> => run('apt-get', ['download', '-q', name], { cwd: folder })
    let fetched = await fetch()
    if (!fetched.ok && (await run('apt-get', ['update', '-qq'])).ok) fetched = await fetch()
    const [archive] = readdirSync(folder).filter((each) => each.endsWith('.deb'))
    if (archive === undefined) return { ok: false, said: fetched.said }
    mkdirSync(kept, { recursive: true })
    const unpacked = await run('dpkg', ['-x', path.join(folder, archive), kept])
    if (existsSync(path.join(kept, file))) symlinkSync(path.join(kept, file), path.join(bin, program.name))
    return unpacked
  })
}

async function buildCrate(crate: string, version: string, name: string, bin: string): Promise<Ran> {
  const root = mkdtempSync(path.join(os.tmpdir(), 'meshwright-crate-'))
  try {
    const result = await run('cargo', ['install', crate, '--version', version, '--locked', '--root', root, '--target-dir', path.join(root, 'target')])
    const built = path.join(root, 'bin', name)
    if (existsSync(built)) cpSync(built, path.join(bin, name))
    return result
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

// Builds write go.sum and the like; the sources of the repository stay as they are.
async function inCopy(from: string | undefined, work: (folder: string) => Promise<Ran>): Promise<Ran> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-module-'))
  try {
    if (from !== undefined) cpSync(from, folder, { recursive: true })
    return await work(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The first 12 hexadecimal digits of a hash over names and contents. */
function hashOfFolder(folder: string): string {
  const hash = createHash('sha256')
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  for (const file of files.map((entry) => path.join(entry.parentPath, entry.name)).sort()) {
    const bytes = readFileSync(file)
    hash.update(`${path.relative(folder, file)}\0${bytes.length}\0`).update(bytes)
  }
  return hash.digest('hex').slice(0, 12)
}

interface Ran {
  readonly ok: boolean
  readonly said: string
}

function run(file: string, args: readonly string[], options: { readonly cwd?: string; readonly env?: Readonly<Record<string, string>> } = {}): Promise<Ran> {
  return new Promise((resolve) => {
    let said = ''
    const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, ...options.env }, ...(options.cwd !== undefined && { cwd: options.cwd }) })
    child.stderr.on('data', (bytes: Buffer) => (said = (said + bytes.toString('utf8')).slice(-20_000)))
    child.once('error', (error) => resolve({ ok: false, said: `there is no ${file} to build with (${error.message})` }))
    child.once('close', (status) => resolve({ ok: status === 0, said }))
  })
}

/** Installs what is missing of the system's programs, where that is possible: as root on a system with apt. Gives what stays missing. */
export async function installSystem(say: (line: string) => void): Promise<readonly SystemProgram[]> {
  const has = async (name: string): Promise<boolean> => (await run('sh', ['-c', `command -v ${name}`])).ok
  const missing = async (): Promise<readonly SystemProgram[]> => {
    const found = await Promise.all(SYSTEM_PROGRAMS.map(({ name }) => has(name)))
    return SYSTEM_PROGRAMS.filter((_, i) => found[i] !== true)
  }
  const wanted = await missing()
  if (wanted.length === 0 || process.getuid?.() !== 0 || !(await has('apt-get'))) return wanted
  const packages = [...new Set(wanted.map(({ debian }) => debian))]
  say(`installing ${packages.join(', ')}...`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  await run('apt-get', ['update', '-qq'], { env })
  await run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], { env })
  return missing()
}
