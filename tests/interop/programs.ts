import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

/** A real program that is met in tests, and where it comes from: always a registry, always by name and version. */
export interface Program {
  readonly name: string
  readonly version: string
  /** Package for `go install`, without the version. */
  readonly goPackage?: string
  /** Module and package for programs that need a module file of their own. */
  readonly goModule?: { readonly module: string; readonly goPackage: string }
}

const TAILSCALE = '1.102.5'

/** Every program, newest first. */
export const PROGRAMS: readonly Program[] = [
  { name: 'tailscaled', version: `v${TAILSCALE}`, goPackage: 'tailscale.com/cmd/tailscaled' },
  { name: 'tailscale', version: `v${TAILSCALE}`, goPackage: 'tailscale.com/cmd/tailscale' },
  { name: 'derper', version: `v${TAILSCALE}`, goPackage: 'tailscale.com/cmd/derper' },
  { name: 'wireguard', version: 'v0.0.0-20260522210424-ecfc5a8d5446', goPackage: 'golang.zx2c4.com/wireguard' },
  { name: 'headscale', version: 'v0.29.3', goModule: { module: 'github.com/juanfont/headscale', goPackage: 'github.com/juanfont/headscale/cmd/headscale' } },
]

/** The folder, outside the repository, where installed programs are kept between runs. */
export function cacheFolder(): string {
  return process.env['MESHWRIGHT_INTEROP_CACHE'] ?? path.join(os.homedir(), '.cache', 'meshwright-interop')
}

/** Where a program is once it is installed. */
export function programPath(program: Program): string {
  return path.join(cacheFolder(), `${program.name}@${program.version}`, program.name)
}

/** How an installation ended. */
export interface Installed {
  readonly program: Program
  readonly path: string | undefined
  /** Why it is missing. */
  readonly reason: string | undefined
}

/** Installs what is missing, one after the other: each build uses all cores. */
export function installAll(say: (line: string) => void): readonly Installed[] {
  return PROGRAMS.map((program) => install(program, say))
}

function install(program: Program, say: (line: string) => void): Installed {
  const target = programPath(program)
  if (existsSync(target)) return { program, path: target, reason: undefined }
  const go = spawnSync('go', ['version'], { encoding: 'utf8' })
  if (go.status !== 0) return { program, path: undefined, reason: `${program.name} ${program.version} is not installed, and there is no Go to install it with` }
  const started = Date.now()
  say(`installing ${program.name} ${program.version}...`)
  const bin = mkdtempSync(path.join(os.tmpdir(), 'meshwright-install-'))
  const result = program.goModule === undefined ? goInstall(program, bin) : goBuild(program, program.goModule, bin)
  const built = path.join(bin, program.name)
  if (result.status !== 0 || !existsSync(built)) {
    rmSync(bin, { recursive: true, force: true })
    return { program, path: undefined, reason: `${program.name} ${program.version} could not be installed: ${result.stderr.trim().split('\n').slice(-3).join(' | ')}` }
  }
  mkdirSync(path.dirname(target), { recursive: true })
  // A copy beside the target first, so that an interrupted run never leaves half a program.
  const staged = `${target}.new`
  spawnSync('cp', [built, staged])
  renameSync(staged, target)
  rmSync(bin, { recursive: true, force: true })
  say(`installed ${program.name} ${program.version} in ${Math.round((Date.now() - started) / 1000)} s`)
  return { program, path: target, reason: undefined }
}

function goInstall(program: Program, bin: string): { readonly status: number | null; readonly stderr: string } {
  return spawnSync('go', ['install', `${program.goPackage ?? ''}@${program.version}`], { encoding: 'utf8', env: { ...process.env, GOBIN: bin, GOFLAGS: '' } })
}

function goBuild(program: Program, from: NonNullable<Program['goModule']>, bin: string): { readonly status: number | null; readonly stderr: string } {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-module-'))
  writeFileSync(path.join(folder, 'go.mod'), `module x\n\ngo 1.26\n\nrequire ${from.module} ${program.version}\n`)
  const result = spawnSync('go', ['build', '-mod=mod', '-o', path.join(bin, program.name), from.goPackage], { cwd: folder, encoding: 'utf8' })
  rmSync(folder, { recursive: true, force: true })
  return result
}

/** Programs of the system, by the Debian package that has them. */
const SYSTEM_PROGRAMS: Readonly<Record<string, string>> = { ip: 'iproute2', wg: 'wireguard-tools', nft: 'nftables' }

/** Installs what is missing of the system's programs, where that is possible: as root on a system with apt. Gives what stays missing. */
export function installSystem(say: (line: string) => void): readonly string[] {
  const missing = (): readonly string[] => Object.keys(SYSTEM_PROGRAMS).filter((name) => spawnSync('sh', ['-c', `command -v ${name}`]).status !== 0)
  const wanted = missing()
  if (wanted.length === 0 || process.getuid?.() !== 0 || spawnSync('sh', ['-c', 'command -v apt-get']).status !== 0) return wanted
  const packages = [...new Set(wanted.map((name) => SYSTEM_PROGRAMS[name] ?? ''))]
  say(`installing ${packages.join(', ')}...`)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  spawnSync('apt-get', ['update', '-qq'], { env, stdio: 'ignore' })
  spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...packages], { env, stdio: 'ignore' })
  return missing()
}
