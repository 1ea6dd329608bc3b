import { instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { encodeTcpPacket, type Ip, parseIp, parsePrefix, TCP_ACK } from '@meshwright/ip'
import { nodeCryptoProvider, systemRandom, wasmCryptoProvider } from '@meshwright/runtime-node'
import { ipv4Address } from '../../packages/runtime-node/src/dataplane/memory-kernel.ts'
import { MemoryLane } from '../../packages/runtime-node/src/dataplane/memory-lane.ts'
import { encodeRowVnetHeader, VNET_GSO_TCPV4, VNET_HEADER_BYTES } from '../../packages/runtime-node/src/dataplane/vnet-header.ts'

// Run with --expose-gc: rows of 45 packets through two lanes over kernels in memory; prints what the heap has grown by, in KiB.
declare const gc: () => void
const packets = Number(process.argv[2] ?? 1e7)
const SEGMENTS = 45
const SEGMENT_BYTES = 64

function make(): { readonly lane: MemoryLane; readonly key: NodePrivateKey } {
  const provider = wasmCryptoProvider(nodeCryptoProvider)
  if (provider === undefined) throw new Error('no WebAssembly SIMD')
  const key = NodePrivateKey.generate(systemRandom)
  const lane = new MemoryLane({ provider, key })
  lane.kernel.tunOut = undefined
  return { lane, key }
}

function ip(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(text)
  return parsed
}

const [a, b] = [make(), make()]
for (const [own, other, from, to] of [[a, b, 1, 2], [b, a, 2, 1]] as const) {
  own.lane.kernel.onSend = (_to, row) => void other.lane.kernel.udpIn.push({ ...row, from: ipv4Address(from, 5000) })
  const prefix = parsePrefix(`10.0.0.${to}/32`)
  if (prefix === undefined) throw new Error('prefix')
  own.lane.change({
    type: 'peer', publicKey: other.key.publicKey(), remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [{ prefix, remove: false }], endpoint: { ip: ip(`10.87.0.${to}`), port: 5000 },
  })
}
const packet = encodeTcpPacket({ src: { ip: ip('10.0.0.1'), port: 1 }, dst: { ip: ip('10.0.0.2'), port: 2 }, sequence: 0, flags: TCP_ACK, payload: new Uint8Array(SEGMENTS * SEGMENT_BYTES) })
const row = new Uint8Array(VNET_HEADER_BYTES + packet.length)
row.set(packet, VNET_HEADER_BYTES)
encodeRowVnetHeader(new DataView(row.buffer), 0, VNET_GSO_TCPV4, 40, SEGMENT_BYTES, 20, 16)

let now = 1_000
function send(count: number): void {
  for (let sent = 0; sent < count; sent += SEGMENTS) {
    a.lane.kernel.tunIn.push(row)
    // Sessions are renewed on the way, as in life.
    now += 0.5
    a.lane.now = instant(now)
    b.lane.now = instant(now)
    for (const { lane } of [a, b, a]) lane.run()
  }
}

function heap(): number {
  for (let i = 0; i < 4; i += 1) gc()
  return process.memoryUsage().heapUsed
}

send(2_000_000)
const before = heap()
send(packets)
const grown = heap() - before
if (b.lane.kernel.tunWrites === 0) throw new Error('nothing arrived')
// Below the noise of the engine's own caches: none.
process.stdout.write(`${Math.max(0, Math.round(grown / 1024))}\n`)
