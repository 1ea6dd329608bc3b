import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { cacheFolder, type Program, PROGRAMS, programPath } from '../../tests/interop/programs.ts'

const SYSTEM_PROGRAMS = [['iperf3', 'iperf3'], ['ping', 'iputils-ping'], ['ip', 'iproute2']] as const

/** Why nothing with a TUN device can be measured here; `undefined` when it can. Debian packages that are missing are installed. */
export function whyNoTunnels(say: (line: string) => void): string | undefined {
  if (process.platform !== 'linux') return 'they need Linux'
  if (process.getuid?.() !== 0) return 'they need root'
  if (!existsSync('/dev/net/tun')) return 'there is no /dev/net/tun'
  for (const [program, debian] of SYSTEM_PROGRAMS) {
    if (isInstalled(program)) continue
    say(`installing ${debian}...`)
    spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', debian], { stdio: 'ignore', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } })
    if (!isInstalled(program)) return `${program} is not installed (Debian package ${debian})`
  }
  return undefined
}

/** The file of a Go program at its newest version, built once; `undefined` when it cannot be built. */
export function goProgram(name: string, say: (line: string) => void): string | undefined {
  const program = PROGRAMS.find((each) => each.name === name)
  if (program === undefined) return undefined
  const file = programPath(program)
  if (!existsSync(file)) build(program, file, say)
  return existsSync(file) ? file : undefined
}

function build({ name, version, source }: Program, file: string, say: (line: string) => void): void {
  if (source.kind !== 'go') return
  say(`building ${name} ${version}...`)
  mkdirSync(path.dirname(file), { recursive: true })
  spawnSync('go', ['install', `${source.goPackage}@${version}`], { env: { ...process.env, GOBIN: path.dirname(file), GOFLAGS: '' }, cwd: cacheFolder(), stdio: 'ignore' })
}

function isInstalled(program: string): boolean {
  return spawnSync('sh', ['-c', `command -v ${program}`]).status === 0
}
