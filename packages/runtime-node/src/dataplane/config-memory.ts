import type { NodePrivateKey, NodePublicKey } from '@meshwright/crypto'
import { CryptokeyRouter } from '@meshwright/cryptokey-router'
import type { Endpoint } from '@meshwright/ip'
import type { ShownDevice, UapiChange, UapiPeerChange } from '@meshwright/wireguard/text'

interface KnownPeer {
  readonly publicKey: NodePublicKey
  presharedKey: Uint8Array | undefined
  endpoint: Endpoint | undefined
  keepalive: number | undefined
}

/** What an interface was configured to be, so that a worker that died can be made again: the changes that lead there from nothing. */
export class ConfigMemory {
  readonly #peers: Map<string, KnownPeer> = new Map()
  readonly #router: CryptokeyRouter<KnownPeer> = new CryptokeyRouter()
  #privateKey: NodePrivateKey | undefined
  #mark = 0

  /** Takes changes that were made. */
  apply(changes: readonly UapiChange[]): void {
    for (const change of changes) {
      if (change.type === 'privateKey') this.#privateKey = change.key
      else if (change.type === 'fwmark') this.#mark = change.mark
      else if (change.type === 'replacePeers') for (const peer of [...this.#peers.values()]) this.#forget(peer)
      else if (change.type === 'peer') this.#applyPeer(change)
    }
    const own = this.#privateKey === undefined ? undefined : this.#peers.get(this.#privateKey.publicKey().text)
    if (own !== undefined) this.#forget(own)
  }

  /** A peer is somewhere else now; `false` when there is no such peer any more. */
  moved(publicKey: NodePublicKey, endpoint: Endpoint): boolean {
    const peer = this.#peers.get(publicKey.text)
    if (peer !== undefined) peer.endpoint = endpoint
    return peer !== undefined
  }

  /** Whether there is a peer with this key. */
  knows(key: string): boolean {
    return this.#peers.has(key)
  }

  /** The changes that make a new interface this one; the port is not among them, since sockets outlive a worker. */
  changes(): UapiChange[] {
    const changes: UapiChange[] = [{ type: 'privateKey', key: this.#privateKey }]
    if (this.#mark !== 0) changes.push({ type: 'fwmark', mark: this.#mark })
    for (const peer of this.#peers.values()) {
      changes.push({
        type: 'peer',
        publicKey: peer.publicKey,
        remove: false,
        updateOnly: false,
        replaceAllowedIps: true,
        allowedIps: this.#router.list(peer).map((prefix) => ({ prefix, remove: false })),
        ...(peer.presharedKey !== undefined && { presharedKey: peer.presharedKey }),
        ...(peer.endpoint !== undefined && { endpoint: peer.endpoint }),
        ...(peer.keepalive !== undefined && { persistentKeepaliveSeconds: peer.keepalive }),
      })
    }
    return changes
  }

  /** The interface as `wg` shows one without sessions. */
  shown(name: string, listenPort: number): ShownDevice {
    const peers = Array.from(this.#peers.values(), (peer) => ({
      publicKey: peer.publicKey,
      allowedIps: this.#router.list(peer),
      receivedBytes: 0,
      sentBytes: 0,
      ...(peer.presharedKey !== undefined && { presharedKey: peer.presharedKey }),
      ...(peer.endpoint !== undefined && { endpoint: peer.endpoint }),
      persistentKeepaliveSeconds: peer.keepalive ?? 0,
    }))
    return { name, listenPort, fwmark: this.#mark, peers, ...(this.#privateKey !== undefined && { privateKey: this.#privateKey }) }
  }

  /** Overwrites what is secret and forgets all. */
  wipe(): void {
    for (const peer of [...this.#peers.values()]) this.#forget(peer)
    this.#privateKey = undefined
  }

  #applyPeer(change: UapiPeerChange): void {
    const known = this.#peers.get(change.publicKey.text)
    if (change.remove) {
      if (known !== undefined) this.#forget(known)
      return
    }
    if (known === undefined && change.updateOnly) return
    const peer: KnownPeer = known ?? { publicKey: change.publicKey, presharedKey: undefined, endpoint: undefined, keepalive: undefined }
    this.#peers.set(change.publicKey.text, peer)
    if (change.presharedKey !== undefined) peer.presharedKey = Uint8Array.from(change.presharedKey)
    if (change.endpoint !== undefined) peer.endpoint = change.endpoint
    if (change.persistentKeepaliveSeconds !== undefined) peer.keepalive = change.persistentKeepaliveSeconds
    if (change.replaceAllowedIps) this.#router.removePeer(peer)
    for (const { prefix, remove } of change.allowedIps) {
      if (remove) this.#router.remove(prefix, peer)
      else this.#router.insert(prefix, peer)
    }
  }

  #forget(peer: KnownPeer): void {
    this.#router.removePeer(peer)
    this.#peers.delete(peer.publicKey.text)
    peer.presharedKey?.fill(0)
  }
}
