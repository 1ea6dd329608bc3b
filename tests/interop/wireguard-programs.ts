import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { whyNoCapture } from './wireguard-capture.ts'

/** A program that makes a WireGuard interface in user space and is configured at its UAPI socket. */
export interface WireGuardProgram {
  /** As the matrix calls it. */
  readonly label: string
  /** Where it is; `undefined` when it cannot be run, for `missing`. */
  readonly file: string | undefined
  readonly missing: string | undefined
  /** What its command line is for an interface. */
  args(name: string): readonly string[]
  /** Whether a peer that it has can be changed; boringtun ends instead, so a peer is taken away and given anew. */
  readonly changesPeers: boolean
  /** What it tells as the time of the last handshake: a point in time, or how long ago it was. */
  readonly handshakeTime: 'at' | 'ago'
  /** Handshake messages in a second that bring it under load. */
  readonly floodPerSecond: number
}

const namespaces = whyNoNamespaces() ?? whyNoCapture()

/** The one of the interop folder, by its name there. */
function installed(label: string, name: string, how: Pick<WireGuardProgram, 'args' | 'changesPeers' | 'handshakeTime' | 'floodPerSecond'>): WireGuardProgram {
  const folder = process.env['MESHWRIGHT_INTEROP_BIN']
  const file = folder === undefined ? undefined : path.join(folder, name)
  const missing = file === undefined ? 'MESHWRIGHT_INTEROP_BIN is not set' : existsSync(file) ? namespaces : `${name} is not installed`
  return { label, file: missing === undefined ? file : undefined, missing, ...how }
}

/** Debian's, where its package is installed. */
function ofSystem(label: string, name: string, how: Pick<WireGuardProgram, 'args' | 'changesPeers' | 'handshakeTime' | 'floodPerSecond'>): WireGuardProgram {
  const found = spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).stdout.trim()
  const missing = found === '' ? `${name} is not installed (Debian package ${name})` : namespaces
  return { label, file: missing === undefined ? found : undefined, missing, ...how }
}

// 128 messages must wait in its queue at one moment: as many as a process can send.
const GO = { args: (name: string) => ['-f', name], changesPeers: true, handshakeTime: 'at', floodPerSecond: Number.POSITIVE_INFINITY } as const

/** The newest wireguard-go that is met. */
export const WIREGUARD_GO: WireGuardProgram = installed('wireguard-go 2026-05', 'wireguard', GO)

/** Every program that is met, newest first. */
export const WIREGUARD_PROGRAMS: readonly WireGuardProgram[] = [
  WIREGUARD_GO,
  ofSystem('wireguard-go of Debian', 'wireguard-go', GO),
  installed('boringtun 0.7.1', 'boringtun-cli', { args: (name) => ['-f', '--disable-drop-privileges', name], changesPeers: false, handshakeTime: 'ago', floodPerSecond: 4000 }),
]

/** Why namespaces and TUN devices cannot be had; `undefined` when they can. */
export function whyNoNamespaces(): string | undefined {
  if (process.platform !== 'linux') return 'needs Linux'
  if (process.getuid?.() !== 0) return 'needs root'
  if (!existsSync('/dev/net/tun')) return 'needs /dev/net/tun'
  const probe = `mwprobe${process.pid}`
  try {
    execFileSync('ip', ['netns', 'add', probe], { stdio: 'ignore' })
    execFileSync('ip', ['netns', 'del', probe], { stdio: 'ignore' })
    return undefined
  } catch {
    return 'needs network namespaces (ip netns)'
  }
}
