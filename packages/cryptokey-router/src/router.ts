import { MeshwrightError } from '@meshwright/core'
import { formatPrefix, type Ip, type IpFamily, ipv4ToNumber, type PacketView, type Prefix, prefixOf } from '@meshwright/ip'
import { PrefixTrie } from './prefix-trie.ts'

/** One allowed prefix and the peer that owns it. */
export interface RouteEntry<Peer> {
  readonly prefix: Prefix
  readonly peer: Peer
}

/** Codes of what this package throws. */
export type CryptokeyRouterErrorCode = 'CRYPTOKEY_PREFIX'

/** What one peer owns: its number in the tries, and its prefixes by exact name in the order in which they came. */
interface Holding<Peer> {
  readonly number: number
  readonly peer: Peer
  readonly prefixes: Map<string, Prefix>
}

/**
 * The routing table of a WireGuard interface ("allowed IPs"): which peer owns an address. Longest prefix wins; each exact prefix has
 * one owner, and inserting it for another peer moves it without a word (WireGuard/wireguard-go:device/allowedips.go). Outbound it
 * chooses the peer by destination, inbound it tells whether the source belongs to the peer that sealed the packet: not merely that one
 * of its prefixes covers the source, but that no other peer has a longer one. IPv4-mapped IPv6 is plain IPv6.
 *
 * Peers are told apart by identity (`Map` keys). Look-ups allocate nothing.
 */
export class CryptokeyRouter<Peer> {
  #table: Table<Peer> = new Table()

  /** How many prefixes there are. */
  get size(): number {
    return this.#table.ipv4.size + this.#table.ipv6.size
  }

  /** Gives a prefix to a peer; from another owner it moves. Host bits are cleared. @throws CRYPTOKEY_PREFIX when the length does not fit the family */
  insert(prefix: Prefix, peer: Peer): void {
    this.#table.insert(masked(prefix), peer)
  }

  /** Takes exactly this prefix from this peer; `false`, and nothing changed, when that peer does not own it. @throws CRYPTOKEY_PREFIX */
  remove(prefix: Prefix, peer: Peer): boolean {
    return this.#table.remove(masked(prefix), peer)
  }

  /** Takes every prefix from a peer; gives how many it had. */
  removePeer(peer: Peer): number {
    return this.#table.removePeer(peer)
  }

  /**
   * Replaces everything by `entries`, later ones winning over earlier ones for the same prefix. Built aside, then swapped: when it
   * throws, nothing has changed. @throws CRYPTOKEY_PREFIX
   */
  replace(entries: Iterable<RouteEntry<Peer>>): void {
    const table = new Table<Peer>()
    for (const { prefix, peer } of entries) table.insert(masked(prefix), peer)
    this.#table = table
  }

  /** Forgets everything. */
  clear(): void {
    this.#table = new Table()
  }

  /** The owner of the address whose 4 or 16 bytes stand at `offset`; `undefined` when nobody owns it or the bytes are not all there. */
  peerForBytes(memory: Uint8Array, offset: number, family: IpFamily): Peer | undefined {
    if (offset < 0 || offset + (family === 4 ? 4 : 16) > memory.length) return undefined
    return this.#table.peers[this.#table.find(memory, offset, family)]
  }

  /** The owner of an address. */
  peerForIp(ip: Ip): Peer | undefined {
    return this.peerForBytes(ip.bytes, 0, ip.family)
  }

  /** The peer that a packet is to be sent to: the owner of its destination. `undefined` for undecodable packets. */
  peerFor(view: PacketView): Peer | undefined {
    return view.family === 0 ? undefined : this.#table.peers[this.#table.find(view.memory, view.dstOffset, view.family)]
  }

  /** Whether a packet that `peer` has sealed may come from where it says: whether `peer` owns its source. */
  allows(peer: Peer, view: PacketView): boolean {
    if (view.family === 0) return false
    const number = this.#table.find(view.memory, view.srcOffset, view.family)
    return number !== 0 && this.#table.peers[number] === peer
  }

  /** What a peer owns, in the order in which it got it. */
  list(peer: Peer): Prefix[] {
    return [...(this.#table.holdings.get(peer)?.prefixes.values() ?? [])]
  }

  /** Every prefix with its owner, peer by peer. */
  entries(): RouteEntry<Peer>[] {
    return [...this.#table.holdings.values()].flatMap(({ peer, prefixes }) => [...prefixes.values()].map((prefix) => ({ prefix, peer })))
  }
}

/** One state of the router, replaced as a whole. */
class Table<Peer> {
  readonly ipv4: PrefixTrie = new PrefixTrie(32)
  readonly ipv6: PrefixTrie = new PrefixTrie(128)
  /** Peers by number; number 0 is nobody. */
  readonly peers: (Peer | undefined)[] = [undefined]
  readonly holdings: Map<Peer, Holding<Peer>> = new Map()
  readonly #byNumber: (Holding<Peer> | undefined)[] = [undefined]
  readonly #freeNumbers: number[] = []
  readonly #key: Int32Array = new Int32Array(4)

  find(memory: Uint8Array, offset: number, family: IpFamily): number {
    if (family === 4) return this.ipv4.find32(ipv4ToNumber(memory, offset))
    return this.ipv6.find128(
      ipv4ToNumber(memory, offset),
      ipv4ToNumber(memory, offset + 4),
      ipv4ToNumber(memory, offset + 8),
      ipv4ToNumber(memory, offset + 12),
    )
  }

  insert(prefix: Prefix, peer: Peer): void {
    const holding = this.#holdingOf(peer)
    const old = this.#trie(prefix).set(this.#keyOf(prefix), prefix.bits, holding.number)
    if (old === holding.number) return
    const name = nameOf(prefix)
    if (old !== 0) this.#forget(this.#byNumber[old], name)
    holding.prefixes.set(name, prefix)
  }

  remove(prefix: Prefix, peer: Peer): boolean {
    const holding = this.holdings.get(peer)
    const name = nameOf(prefix)
    if (holding === undefined || !holding.prefixes.has(name)) return false
    this.#trie(prefix).delete(this.#keyOf(prefix), prefix.bits)
    this.#forget(holding, name)
    return true
  }

  removePeer(peer: Peer): number {
    const holding = this.holdings.get(peer)
    if (holding === undefined) return 0
    const count = holding.prefixes.size
    for (const prefix of holding.prefixes.values()) this.#trie(prefix).delete(this.#keyOf(prefix), prefix.bits)
    holding.prefixes.clear()
    this.#retire(holding)
    return count
  }

  #holdingOf(peer: Peer): Holding<Peer> {
    const known = this.holdings.get(peer)
    if (known !== undefined) return known
    const number = this.#freeNumbers.pop() ?? this.peers.length
    const holding: Holding<Peer> = { number, peer, prefixes: new Map() }
    this.peers[number] = peer
    this.#byNumber[number] = holding
    this.holdings.set(peer, holding)
    return holding
  }

  #forget(holding: Holding<Peer> | undefined, name: string): void {
    holding?.prefixes.delete(name)
    if (holding !== undefined && holding.prefixes.size === 0) this.#retire(holding)
  }

  /** A peer without prefixes is not kept alive by this table. */
  #retire(holding: Holding<Peer>): void {
    this.peers[holding.number] = undefined
    this.#byNumber[holding.number] = undefined
    this.holdings.delete(holding.peer)
    this.#freeNumbers.push(holding.number)
  }

  #trie(prefix: Prefix): PrefixTrie {
    return prefix.ip.family === 4 ? this.ipv4 : this.ipv6
  }

  #keyOf(prefix: Prefix): Int32Array {
    for (let word = 0; word < prefix.ip.bytes.length / 4; word += 1) this.#key[word] = ipv4ToNumber(prefix.ip.bytes, word * 4)
    return this.#key
  }
}

function masked(prefix: Prefix): Prefix {
  const result = prefixOf(prefix.ip, prefix.bits)
  if (result === undefined) throw new MeshwrightError<CryptokeyRouterErrorCode>('CRYPTOKEY_PREFIX', `${formatPrefix(prefix)}: the length must be 0 to ${prefix.ip.bits}`)
  return result
}

/** A short exact name of a prefix; much cheaper than its text. */
function nameOf(prefix: Prefix): string {
  return String.fromCharCode(prefix.bits, ...prefix.ip.bytes)
}
