import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { encodeUdpPacket, formatPrefix, type Ip, isLinkLocal, isMulticast, parseIp, type Prefix } from '@meshwright/ip'
import { WireGuardDevice } from '@meshwright/wireguard'
import { type CaseResult, UnknownForm } from '../kind.ts'
import type { LanePeer } from './actor.ts'
import { actorOn, check, endpoint, type LaneUnderTest, prefix } from './lane-under-test.ts'

/** What is used of `allowedips.json`. */
export interface AddressVectors {
  readonly scenarios: readonly {
    readonly name: string
    readonly ops: readonly (
      | { readonly op: 'insert' | 'remove'; readonly prefix: string; readonly peer: string }
      | { readonly op: 'remove_peer'; readonly peer: string }
      | { readonly op: 'lookup'; readonly address: string; readonly expect: string | null }
      | { readonly op: 'list' | 'assert_empty' }
    )[]
  }[]
}

const OWN_KEY = 'a0037480576f53b132f82da09de8dc149269980997001c32368b7f8e3eabe455'
const PATH = { id: 'node', cookieBytes: new Uint8Array(6) }

/** A peer with a session: what goes to it goes to its own endpoint. */
interface Known {
  readonly publicKey: NodePublicKey
  readonly port: number
  readonly device: WireGuardDevice
}

/**
 * Scripted changes of allowed addresses, told as a configuration or a map would: each look-up is a packet to that address, which goes to the
 * peer that owns it or to nobody, and one from it, which is let in from that peer and from no other.
 */
export function addressesOnLane(vectors: AddressVectors, under: LaneUnderTest): readonly CaseResult[] {
  return vectors.scenarios.flatMap(({ name, ops }) => {
    const actor = actorOn(under, OWN_KEY)
    const peers = new Map<string, Known>()
    const table = new Map<string, { readonly prefix: Prefix; readonly peer: string }>()
    let told = false
    const tell = (): void => {
      if (told) return
      told = true
      const allowed = new Map<string, Prefix[]>()
      for (const entry of table.values()) allowed.set(entry.peer, [...(allowed.get(entry.peer) ?? []), entry.prefix])
      actor.know([...peers].map(([id, { publicKey, port }]): LanePeer => ({ publicKey, endpoint: endpoint(`192.0.2.1:${port}`), allowed: allowed.get(id) ?? [] })))
    }
    const known = (id: string): Known => {
      let peer = peers.get(id)
      if (peer !== undefined) return peer
      const number = peers.size + 1
      const random = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (number * 61 + i * 7) & 255)
      const privateKey = NodePrivateKey.generate(random)
      const device = new WireGuardDevice({ provider: under.provider, privateKey, random, wallClock: () => 1_600_000_000_000 })
      device.setPeer(actor.now, { publicKey: actor.key.publicKey(), path: PATH })
      peer = { publicKey: privateKey.publicKey(), port: 1_000 + number, device }
      peers.set(id, peer)
      told = false
      tell()
      device.connect(actor.now, actor.key.publicKey())
      // Initiation, response, and the packet that confirms it.
      for (let step = 0; step < 2; step += 1) {
        for (const bytes of outputsOf(device)) actor.datagram(endpoint(`192.0.2.1:${peer.port}`), bytes)
        for (const { bytes } of actor.takeSent()) device.handleInput(actor.now, { type: 'datagram', bytes, from: PATH })
      }
      for (const bytes of outputsOf(device)) actor.datagram(endpoint(`192.0.2.1:${peer.port}`), bytes)
      return peer
    }
    let turn = 0
    const looked = (address: Ip, owner: string | null): [string | null, string[]] => {
      tell()
      actor.takeSent()
      const near = own(address)
      actor.packet(encodeUdpPacket({ src: { ip: near, port: 9 }, dst: { ip: address, port: 9 }, payload: new Uint8Array(8) }))
      const ports = actor.takeSent().map(({ to }) => to?.port)
      const to = [...peers].find(([, { port }]) => ports.length === 1 && ports[0] === port)?.[0] ?? (ports.length === 0 ? null : 'several')
      // A peer without any address may yet be given one: what it sends waits for that. Of the others, one at a time tries it beside the owner.
      const owners = new Set(Array.from(table.values(), ({ peer }) => peer))
      turn += 1
      const other = [...owners].filter((id) => id !== owner)[turn % Math.max(1, owners.size - 1)]
      const from = [...peers].filter(([id]) => (id === owner && owners.has(id)) || id === other).flatMap(([id, { device, port }]) => {
        device.handleInput(actor.now, { type: 'packet', peer: actor.key.publicKey(), bytes: encodeUdpPacket({ src: { ip: address, port: 9 }, dst: { ip: near, port: 9 }, payload: new Uint8Array(8) }) })
        for (const bytes of outputsOf(device)) actor.datagram(endpoint(`192.0.2.1:${port}`), bytes)
        return actor.takeDelivered().length > 0 ? [id] : []
      })
      return [to, from]
    }
    return ops.flatMap((op, i) => {
      if (op.op === 'insert') {
        known(op.peer)
        const entry = prefix(op.prefix)
        table.set(formatPrefix(entry), { prefix: entry, peer: op.peer })
        told = false
      } else if (op.op === 'remove') {
        const text = formatPrefix(prefix(op.prefix))
        if (table.get(text)?.peer === op.peer) table.delete(text)
        told = false
      } else if (op.op === 'remove_peer') {
        for (const [text, { peer }] of table) if (peer === op.peer) table.delete(text)
        told = false
      } else if (op.op === 'lookup') {
        const address = ip(op.address)
        // Nothing goes out of a mesh node to groups and links, whoever owns their addresses.
        const goesNowhere = under.isMesh && (isMulticast(address) || isLinkLocal(address))
        return [check(under, `addresses/${name}#${i}`, looked(address, op.expect), [goesNowhere ? null : op.expect, op.expect === null ? [] : [op.expect]])]
      }
      return []
    })
  })
}

function outputsOf(device: WireGuardDevice): Uint8Array[] {
  const found: Uint8Array[] = []
  for (let output = device.pollOutput(); output !== undefined; output = device.pollOutput()) if (output.type === 'transmit') found.push(output.bytes)
  return found
}

function own(address: Ip): Ip {
  return ip(address.family === 4 ? '192.0.2.200' : '2001:db8::200')
}

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new UnknownForm(text, 'an address')
  return parsed
}
