// Our side of the tests with wireguard-go, run inside a network namespace: the tunnel of examples/wireguard with our own TCP/IP stack
// in the place of a TUN device; with a lane of the worker in MESHWRIGHT_DATAPLANE, that with a device. Commands come as lines of JSON on
// standard input, answers go out the same way.
import { createHash } from 'node:crypto'
import readline from 'node:readline'
import { formatHex, type Instant, instant, utf8Encode } from '@meshwright/core'
import { type CryptoProvider, nobleProvider } from '@meshwright/crypto'
import { type Ip, parseIp } from '@meshwright/ip'
import { type FlowId, Netstack, type NetstackOutput, type PingId } from '@meshwright/netstack'
import { chooseCryptoProvider, nodeCryptoProvider, systemRandom } from '@meshwright/runtime-node'
import { DATAPLANE_VARIABLE, isDataPlaneWorker, parseLaneMode, runDataPlaneWorker } from '@meshwright/runtime-node/dataplane'
import { formatUapi, parseUapi, type UapiChange } from '@meshwright/wireguard/text'
import { Tunnel } from '../../examples/wireguard/src/tunnel.ts'
import { PLAINTEXT_MARKER } from './wireguard-capture.ts'
import { patternBytes, type PeerAnswer, type PeerCommand, type PeerSide, type ProviderName, type SideCommand, TRANSFER_BYTES, type TransferResult } from './wireguard-commands.ts'
import { WorkerPeer } from './wireguard-peer-worker.ts'

const MTU = 1420

class Peer implements PeerSide {
  readonly #stack: Netstack
  readonly #tunnel: Tunnel
  readonly #log: string[] = []
  readonly #pings: Map<PingId, (rttMs: number | undefined) => void> = new Map()
  readonly #flows: Map<FlowId, Transfer> = new Map()
  readonly #accepted: TransferResult[] = []
  readonly #secrets: Set<string> = new Set()
  #timer: NodeJS.Timeout | undefined

  constructor(command: Extract<PeerCommand, { op: 'start' }>) {
    this.#stack = new Netstack(systemRandom, { mtu: MTU, addresses: command.addresses.map(ip) })
    this.#tunnel = new Tunnel({
      name: 'ours',
      mtu: MTU,
      provider: remembering(providerOf(command.provider), this.#secrets),
      ...(command.underLoad && { loadMonitor: { handshakeArrived: () => true, worked: () => undefined, isUnderLoad: () => true } }),
      deliver: (packet) => {
        this.#stack.receive(now(), packet)
        this.#settle()
      },
      log: (_level, line) => this.#log.push(line),
    })
    this.#stack.listenTcp(command.tcpPort)
  }

  apply(changes: readonly UapiChange[]): Promise<number> {
    return this.#tunnel.apply(changes)
  }

  async run(command: SideCommand): Promise<unknown> {
    switch (command.op) {
      case 'get':
        return formatUapi(this.#tunnel.shown())
      case 'secrets':
        return [...this.#secrets]
      case 'ping':
        return this.#ping(ip(command.to), command.timeoutMs)
      case 'tcp':
        return this.#transfer(ip(command.to), command.port)
      case 'accepted':
        return this.#accepted
      case 'status': {
        const status = this.#tunnel.status()
        return { log: this.#log, drops: Object.fromEntries(status.drops), cookieRepliesSent: status.cookieRepliesSent, provider: status.provider }
      }
    }
  }

  #ping(to: Ip, timeoutMs: number): Promise<number | null> {
    const id = this.#stack.ping(now(), to, { timeoutMs, bytes: utf8Encode(PLAINTEXT_MARKER) })
    return new Promise((resolve) => {
      this.#pings.set(id, (rttMs) => resolve(rttMs ?? null))
      this.#settle()
    })
  }

  #transfer(to: Ip, port: number): Promise<TransferResult> {
    const flow = this.#stack.connectTcp(now(), { ip: to, port })
    return new Promise((resolve) => {
      this.#flows.set(flow, new Transfer(resolve))
      this.#settle()
    })
  }

  #settle(): void {
    for (let output = this.#stack.pollOutput(); output !== undefined; output = this.#stack.pollOutput()) this.#perform(output)
    clearTimeout(this.#timer)
    const due = this.#stack.pollTimeout()
    if (due === undefined) return
    this.#timer = setTimeout(
      () => {
        this.#stack.handleTimeout(now())
        this.#settle()
      },
      Math.max(0, Math.ceil(due - now())),
    )
  }

  #perform(output: NetstackOutput): void {
    switch (output.type) {
      case 'packet':
        return this.#tunnel.send(output.bytes)
      case 'echoReply':
        return this.#pings.get(output.ping)?.(output.rttMs)
      case 'echoFailed':
        return this.#pings.get(output.ping)?.(undefined)
      case 'opened':
        if (output.listener !== undefined) this.#flows.set(output.flow, new Transfer((result) => this.#accepted.push(result)))
        return this.#push(output.flow)
      case 'writable':
        return this.#push(output.flow)
      case 'data':
        this.#flows.get(output.flow)?.take(output.bytes)
        return this.#stack.consumed(now(), output.flow, output.bytes.length)
      case 'closed':
        this.#flows.get(output.flow)?.finish(output.reason)
        this.#flows.delete(output.flow)
    }
  }

  #push(flow: FlowId): void {
    const transfer = this.#flows.get(flow)
    if (transfer === undefined) return
    while (transfer.rest.length > 0) {
      const taken = this.#stack.write(now(), flow, transfer.rest)
      transfer.rest = transfer.rest.subarray(taken)
      if (taken === 0) return
    }
    this.#stack.shutdownWrite(now(), flow)
  }
}

/** One connection: both ends send the same pattern and hash what comes. */
class Transfer {
  rest: Uint8Array = patternBytes(TRANSFER_BYTES)
  readonly #hash = createHash('sha256')
  readonly #done: (result: TransferResult) => void
  #bytes = 0

  constructor(done: (result: TransferResult) => void) {
    this.#done = done
  }

  take(bytes: Uint8Array): void {
    this.#hash.update(bytes)
    this.#bytes += bytes.length
  }

  finish(reason: string): void {
    this.#done({ bytes: this.#bytes, sha256: this.#hash.digest('hex'), reason })
  }
}

function providerOf(name: ProviderName): CryptoProvider {
  return name === 'node' ? nodeCryptoProvider : name === 'noble' ? nobleProvider : chooseCryptoProvider()
}

/** The same provider; shared secrets and the keys of sessions that it meets are written down. */
function remembering(provider: CryptoProvider, secrets: Set<string>): CryptoProvider {
  return {
    name: provider.name,
    publicKey: (secret) => provider.publicKey(secret),
    sharedSecret: (secret, key) => {
      const shared = provider.sharedSecret(secret, key)
      if (shared !== undefined) secrets.add(formatHex(shared))
      return shared
    },
    hash: (...parts) => provider.hash(...parts),
    mac: (key, ...parts) => provider.mac(key, ...parts),
    hmac: (key, ...parts) => provider.hmac(key, ...parts),
    aeadSeal: (...given) => provider.aeadSeal(...given),
    aeadOpen: (...given) => provider.aeadOpen(...given),
    xaeadSeal: (...given) => provider.xaeadSeal(...given),
    xaeadOpen: (...given) => provider.xaeadOpen(...given),
    keySlot: (key) => {
      secrets.add(formatHex(key))
      return provider.keySlot(key)
    },
    sealBatch: (...given) => provider.sealBatch(...given),
    openBatch: (...given) => provider.openBatch(...given),
  }
}

function now(): Instant {
  return instant(performance.now())
}

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(`not an address: ${text}`)
  return parsed
}

function answer(message: PeerAnswer): void {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

let peer: PeerSide | undefined

async function obey(command: PeerCommand): Promise<unknown> {
  if (command.op === 'start') {
    if (peer !== undefined) throw new Error('started already')
    const mode = process.env[DATAPLANE_VARIABLE]
    peer = mode === undefined || parseLaneMode(mode).lane !== 'worker' ? new Peer(command) : await WorkerPeer.start(command, mode)
    return undefined
  }
  if (peer === undefined) throw new Error('not started')
  if (command.op !== 'set') return peer.run(command)
  const request = parseUapi(['set=1', ...command.lines])
  if (request.type !== 'set' || request.errno !== 0) throw new Error('not a request')
  const errno = await peer.apply(request.changes)
  if (errno !== 0) throw new Error(`errno ${errno}`)
  return undefined
}

function main(): void {
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const { id, command } = JSON.parse(line) as { id: number; command: PeerCommand }
    obey(command).then(
      (result) => answer({ id, result }),
      (error: unknown) => answer({ id, error: error instanceof Error ? error.message : String(error) }),
    )
  })
  process.stdin.on('end', () => process.exit(0))
}

if (isDataPlaneWorker()) runDataPlaneWorker()
else main()
