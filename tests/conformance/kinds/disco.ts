import { formatHex, parseHex } from '@meshwright/core'
import { DiscoPrivateKey, DiscoPublicKey } from '@meshwright/crypto'
import { formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { classifyDatagram, decodeDiscoMessage, decodeGeneve, DiscoBox, type DiscoMessage, discoSender, encodeDiscoMessage } from '@meshwright/nat-traversal'
import { readFile, readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'
import { judgeReaction } from './disco-reactions.ts'

interface Recording {
  readonly ours: { readonly discoPrivate: string; readonly discoPublic: string; readonly nodePublic: string }
  readonly peers: readonly { readonly Name: string; readonly Key: string; readonly DiscoKey: string }[]
  readonly packets: readonly Recorded[]
}

interface Recorded {
  readonly dir: 'in' | 'out'
  readonly via: string
  readonly packet: string
  readonly type: string
  readonly plain?: string
  readonly peer?: string
  readonly from?: string
  readonly control?: boolean
  readonly source?: string
  readonly endpoints?: readonly string[]
  readonly len?: number
  readonly padding?: number
  readonly nodeKeyMatches?: boolean
  readonly endpoint?: {
    readonly relayDisco: string
    readonly clients: readonly string[]
    readonly lamport: string
    readonly vni: number
    readonly bindNs: string
    readonly steadyNs: string
    readonly addrs: readonly string[]
  }
}

const TYPES: Readonly<Record<string, DiscoMessage['type']>> = {
  Ping: 'ping',
  Pong: 'pong',
  CallMeMaybe: 'call-me-maybe',
  CallMeMaybeVia: 'call-me-maybe-via',
  Bind: 'bind-udp-relay',
  Challenge: 'bind-udp-relay-challenge',
  Answer: 'bind-udp-relay-answer',
}
const NONCE_START = 38
const NONCE_END = 62

/** disco packets exchanged with a real client, directly, over DERP and over a UDP peer relay. */
export const kind: Kind = {
  name: 'disco',
  defaultPath: 'vectors/disco',
  copied: true,
  async run(target) {
    const files = (await stat(target)).isDirectory() ? (await readdir(target)).filter((name) => name.endsWith('.json')).map((name) => path.join(target, name)) : [target]
    const results: CaseResult[] = []
    for (const file of files) {
      const content: unknown = JSON.parse(await readFile(file, 'utf8'))
      const group = path.basename(file, '.json')
      if (isRecording(content)) results.push(...content.packets.map((packet, i) => judge(group, `${group}#${i} ${packet.dir} ${packet.type}`, () => judgePacket(content, packet))))
      else if (isWireGuardRecording(content)) {
        results.push(...content.packets.map((packet, i) => judge(group, `${group}#${i}`, () => (classifyDatagram(hex(packet.packet)) === 'wireguard' ? undefined : 'not taken for WireGuard'))))
      } else if (isReactions(content)) {
        results.push(...content.map((item) => judge(group, `${group}: ${item.message}`, () => judgeReaction(item.message, item.reaction))))
      }
    }
    if (results.length === 0) throw new UnknownForm(target, '{ours, peers, packets} with opened disco packets, or a list of {message, reaction}')
    return results
  },
}

/** Opens the packet, compares every recorded field, and makes the same packet again from its parts. */
function judgePacket(recording: Recording, recorded: Recorded): string | undefined {
  let bytes = hex(recorded.packet)
  const relayed = decodeGeneve(bytes)
  const class_ = classifyDatagram(bytes)
  if (recorded.type.startsWith('WireGuard')) return class_ === 'relayed-wireguard' ? undefined : `taken for ${class_}`
  if (class_ !== (relayed === undefined ? 'disco' : 'relayed-disco')) return `taken for ${class_}`
  if (relayed !== undefined) {
    if (recorded.control !== undefined && relayed.header.control !== recorded.control) return 'control bit'
    bytes = relayed.payload
  }
  if (recorded.len !== undefined && relayed === undefined && bytes.length !== recorded.len) return `length ${bytes.length}`
  const privateKey = DiscoPrivateKey.fromBytes(hex(recording.ours.discoPrivate))
  const nonce = bytes.slice(NONCE_START, NONCE_END)
  if (privateKey === undefined || recorded.plain === undefined) return 'incomplete record'
  const box = new DiscoBox({ privateKey, random: () => nonce })
  const sender = discoSender(bytes)
  const other = recorded.dir === 'in' ? sender : otherParty(recording, recorded, relayed?.header.control === true)
  if (sender === undefined || other === undefined) return 'unknown party'
  if (recorded.dir === 'out' && formatHex(sender.bytes) !== recording.ours.discoPublic) return 'sender key'
  if (recorded.dir === 'in' && !isParty(recording, sender)) return 'sender is not in the map'
  const plain = recorded.dir === 'in' ? box.open(sender, bytes) : openOwn(box, other, bytes)
  if (plain === undefined) return 'does not open'
  if (formatHex(plain) !== recorded.plain) return 'plaintext differs'
  const message = decodeDiscoMessage(plain)
  if (message === undefined || message.type !== TYPES[recorded.type]) return `decoded as ${message?.type}`
  const again = encodeDiscoMessage(message)
  if (formatHex(again) !== recorded.plain) return 'encoded again it differs'
  const sealed = box.seal(other, again)
  if (sealed === undefined || formatHex(sealed.subarray(NONCE_START)) !== formatHex(bytes.subarray(NONCE_START))) return 'sealed again it differs'
  return judgeFields(recording, recorded, message)
}

function judgeFields(recording: Recording, recorded: Recorded, message: DiscoMessage): string | undefined {
  if (recorded.source !== undefined && (message.type !== 'pong' || formatEndpoint(message.source) !== canonical(recorded.source))) return 'source'
  if (recorded.padding !== undefined && (message.type !== 'ping' || message.padding !== recorded.padding)) return 'padding'
  if (recorded.nodeKeyMatches !== undefined && message.type === 'ping') {
    const known = recording.peers.some((peer) => peer.Name === recorded.peer && peer.Key === message.nodeKey?.text)
    if (known !== recorded.nodeKeyMatches) return 'node key'
  }
  if (recorded.endpoints !== undefined) {
    const ours = message.type === 'call-me-maybe' ? message.endpoints.map(formatEndpoint).join() : ''
    if (ours !== recorded.endpoints.map(canonical).join()) return `endpoints ${ours}`
  }
  if (recorded.endpoint !== undefined) {
    if (message.type !== 'call-me-maybe-via') return 'no endpoint'
    const e = message.endpoint
    const ours = {
      relayDisco: formatHex(e.relayKey.bytes),
      clients: e.clients.map((key) => formatHex(key.bytes)),
      lamport: String(e.lamportId),
      vni: e.vni,
      bindNs: String(e.bindLifetimeNs),
      steadyNs: String(e.steadyLifetimeNs),
      addrs: e.addresses.map(formatEndpoint),
    }
    if (JSON.stringify(ours) !== JSON.stringify({ ...recorded.endpoint, addrs: recorded.endpoint.addrs.map(canonical) })) return `endpoint ${JSON.stringify(ours)}`
  }
  return undefined
}

/** To whom an outgoing packet was sealed: the relay for the bind handshake, else the peer. */
function otherParty(recording: Recording, recorded: Recorded, control: boolean): DiscoPublicKey | undefined {
  if (control) return relayKey(recording)
  const peer = recording.peers.find((item) => item.Name === recorded.peer) ?? recording.peers[0]
  return peer && DiscoPublicKey.parse(peer.DiscoKey)
}

function relayKey(recording: Recording): DiscoPublicKey | undefined {
  const endpoint = recording.packets.find((packet) => packet.endpoint !== undefined)?.endpoint
  return endpoint && DiscoPublicKey.fromBytes(hex(endpoint.relayDisco))
}

function isParty(recording: Recording, key: DiscoPublicKey): boolean {
  return recording.peers.some((peer) => peer.DiscoKey === key.text) || relayKey(recording)?.text === key.text
}

/** A box between two keys opens with either side's secret: what we sent is opened by naming the receiver as its sender. */
function openOwn(box: DiscoBox, receiver: DiscoPublicKey, bytes: Uint8Array): Uint8Array | undefined {
  const turned = Uint8Array.from(bytes)
  turned.set(receiver.bytes, 6)
  return box.open(receiver, turned)
}

function canonical(text: string): string {
  const endpoint = parseEndpoint(text)
  return endpoint === undefined ? `unreadable ${text}` : formatEndpoint(endpoint)
}

function judge(group: string, id: string, check: () => string | undefined): CaseResult {
  const detail = check()
  return detail === undefined ? { group, id, passed: true } : { group, id, passed: false, detail }
}

function hex(text: string): Uint8Array {
  const bytes = parseHex(text)
  if (bytes === undefined) throw new Error(`not hexadecimal: ${text.slice(0, 20)}`)
  return bytes
}

function isRecording(content: unknown): content is Recording {
  return isObject(content) && isObject(content.ours) && 'discoPrivate' in content.ours && Array.isArray(content.packets) && Array.isArray(content.peers)
}

function isWireGuardRecording(content: unknown): content is { readonly packets: readonly { readonly packet: string }[] } {
  return isObject(content) && 'ourNodePrivate' in content && Array.isArray(content.packets)
}

function isReactions(content: unknown): content is readonly { readonly message: string; readonly reaction: string }[] {
  return Array.isArray(content) && content.length > 0 && content.every((item: unknown) => isObject(item) && typeof item.message === 'string' && typeof item.reaction === 'string')
}

function isObject(item: unknown): item is Record<string, unknown> {
  return typeof item === 'object' && item !== null
}
