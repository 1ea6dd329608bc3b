import path from 'node:path'
import { parseArgs } from 'node:util'
import type { UnixMillis } from '@meshwright/core'
import { NodePublicKey } from '@meshwright/crypto'
import { formatPrefix } from '@meshwright/ip'
import { type ConfigFile, formatAgo, formatPublicKey, type ShownDevice } from '@meshwright/wireguard/text'
import { readConfigFile } from './check.ts'
import { readDeviceAndMoves, type Roamed } from './uapi-client.ts'
import { UsageError } from './usage-error.ts'

/** Wider prefixes than these let a peer speak for a whole part of the Internet. */
const WIDEST_IPV4 = 8
const WIDEST_IPV6 = 32
/** A session lasts 180 s: with keepalives, a peer that is there is heard from within that time. */
const SILENT_AFTER_MS = 180_000
/** Who is back at a place within this time, after another one, did not travel: two hosts speak with one key. */
const BACK_WITHIN_MS = 120_000

/** Something that an operator should know. */
export interface Finding {
  readonly kind: 'down' | 'drift' | 'never-seen' | 'silent' | 'wide' | 'duplicate-key' | 'two-places'
  readonly interface: string
  /** Base64. */
  readonly peer?: string
  readonly message: string
}

/** `audit [--json] FILE...`: each running interface (named as its file) against its file; status 1 when there is a finding. @throws UsageError */
export async function audit(args: readonly string[]): Promise<{ readonly text: string; readonly status: number }> {
  let parsed
  try {
    parsed = parseArgs({ args: [...args], allowPositionals: true, options: { json: { type: 'boolean' } } })
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
  if (parsed.positionals.length === 0) throw new UsageError('usage: meshwright-wg audit [--json] FILE...')
  const files = parsed.positionals.map((file) => ({ name: path.basename(file, '.conf'), config: readConfigFile(file) }))
  const findings = duplicateKeys(files)
  for (const { name, config } of files) {
    const running = await readDeviceAndMoves(name).catch((error: unknown) => {
      if (error instanceof UsageError) return undefined
      throw error
    })
    findings.push(...compare(name, config, running?.device, Date.now()), ...twoPlaces(name, running?.moves ?? new Map()))
  }
  const text = parsed.values.json === true
    ? `${JSON.stringify({ ok: findings.length === 0, findings }, null, 2)}\n`
    : findings.length === 0
    ? 'nothing found\n'
    : findings.map((each) => `${each.interface}: ${each.kind}: ${each.peer === undefined ? '' : `${each.peer}: `}${each.message}\n`).join('')
  return { text, status: findings.length === 0 ? 0 : 1 }
}

/** What differs between a file and the running interface, and what is doubtful about either. */
export function compare(name: string, config: ConfigFile, device: ShownDevice | undefined, wallNow: UnixMillis): Finding[] {
  const findings: Finding[] = []
  const say = (kind: Finding['kind'], message: string, peer?: NodePublicKey): void => {
    findings.push({ kind, interface: name, ...(peer !== undefined && { peer: formatPublicKey(peer) }), message })
  }
  for (const { publicKey, allowedIps } of config.peers) {
    for (const prefix of allowedIps) if (prefix.bits < (prefix.ip.family === 4 ? WIDEST_IPV4 : WIDEST_IPV6)) say('wide', `may speak for ${formatPrefix(prefix)}`, publicKey)
  }
  if (device === undefined) {
    say('down', 'the interface is not running in user space')
    return findings
  }
  const own = config.interface.privateKey?.publicKey()
  const running = device.privateKey?.publicKey()
  if (own?.text !== running?.text) say('drift', 'runs with another private key than the file has')
  if (config.interface.listenPort !== undefined && config.interface.listenPort !== device.listenPort) say('drift', `listens on port ${device.listenPort ?? 0}; the file says ${config.interface.listenPort}`)
  const written = new Map(config.peers.flatMap((peer) => (peer.publicKey === undefined ? [] : [[peer.publicKey.text, peer] as const])))
  for (const peer of device.peers) {
    const file = written.get(peer.publicKey.text)
    written.delete(peer.publicKey.text)
    if (file === undefined) {
      say('drift', 'is a peer, but not in the file', peer.publicKey)
      continue
    }
    const [is, should] = [peer.allowedIps, file.allowedIps].map((prefixes) => [...new Set(prefixes.map(formatPrefix))].sort().join(', '))
    if (is !== should) say('drift', `allowed IPs are ${is === '' ? 'none' : is}; the file says ${should === '' ? 'none' : should}`, peer.publicKey)
    if (hasKey(peer.presharedKey) !== hasKey(file.presharedKey) || (file.presharedKey !== undefined && peer.presharedKey?.some((byte, index) => byte !== file.presharedKey?.[index]))) {
      say('drift', 'has another preshared key than in the file', peer.publicKey)
    }
    const keepalive = file.persistentKeepaliveSeconds ?? 0
    if (peer.persistentKeepaliveSeconds !== keepalive) say('drift', `persistent keepalive is ${peer.persistentKeepaliveSeconds} s; the file says ${keepalive}`, peer.publicKey)
    // Without addresses it is the next key of a rotation: nobody is to be heard under it yet.
    if (peer.latestHandshake === undefined && peer.allowedIps.length === 0) continue
    if (peer.latestHandshake === undefined) say('never-seen', 'no handshake since the interface was made', peer.publicKey)
    else if (peer.persistentKeepaliveSeconds > 0 && wallNow - peer.latestHandshake > SILENT_AFTER_MS) say('silent', `last handshake ${formatAgo(wallNow - peer.latestHandshake)}, in spite of keepalives`, peer.publicKey)
  }
  for (const peer of written.values()) say('drift', 'is in the file, but not a peer', peer.publicKey)
  return findings
}

/** A key belongs to one host: two interfaces with the same private key, or a peer in two places of one file, are mistakes. */
export function duplicateKeys(files: readonly { readonly name: string; readonly config: ConfigFile }[]): Finding[] {
  const findings: Finding[] = []
  const owners = new Map<string, string>()
  for (const { name, config } of files) {
    const own = config.interface.privateKey?.publicKey()
    const owner = own && owners.get(own.text)
    if (own !== undefined && owner !== undefined) findings.push({ kind: 'duplicate-key', interface: name, peer: formatPublicKey(own), message: `has the same private key as ${owner}` })
    if (own !== undefined) owners.set(own.text, name)
    const seen = new Set<string>()
    for (const { publicKey } of config.peers) {
      if (publicKey === undefined) continue
      if (seen.has(publicKey.text)) findings.push({ kind: 'duplicate-key', interface: name, peer: formatPublicKey(publicKey), message: 'stands in the file more than once' })
      seen.add(publicKey.text)
    }
  }
  return findings
}

/** Peers that jump to and fro between two places. @param moves by the text of a peer's public key, oldest first */
export function twoPlaces(name: string, moves: ReadonlyMap<string, readonly Roamed[]>): Finding[] {
  return [...moves].flatMap(([text, places]) => {
    const back = places.findLast(({ at, endpoint }, index) => {
      const [before, between] = [places[index - 2], places[index - 1]]
      if (before === undefined || between === undefined || at - before.at >= BACK_WITHIN_MS) return false
      return isBetween(before.endpoint, between.endpoint, endpoint) || isBetween(hostOf(before.endpoint), hostOf(between.endpoint), hostOf(endpoint))
    })
    const key = NodePublicKey.parse(text)
    if (back === undefined || key === undefined) return []
    const other = places.findLast(({ endpoint }) => endpoint !== back.endpoint)?.endpoint ?? ''
    return [{ kind: 'two-places' as const, interface: name, peer: formatPublicKey(key), message: `jumps between ${back.endpoint} and ${other}: one key is used in two places` }]
  })
}

// There, elsewhere, there again.
function isBetween(before: string, between: string, now: string): boolean {
  return before === now && between !== now
}

function hostOf(endpoint: string): string {
  return endpoint.slice(0, endpoint.lastIndexOf(':'))
}

function hasKey(key: Uint8Array | undefined): boolean {
  return key?.some((byte) => byte !== 0) ?? false
}
