// One end under fire: a process with a lane in a worker, run inside a network namespace. Commands come as lines of JSON.
import { readdirSync } from 'node:fs'
import readline from 'node:readline'
import { DiscoPrivateKey, type DiscoPublicKey, NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { IpSet, parseEndpoint, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import type { AppliedMap } from '@meshwright/mesh'
import { systemRandom } from '@meshwright/runtime-node'
import { type DataPlane, isDataPlaneWorker, isMeshLaneWorker, parseLaneMode, runDataPlaneWorker, runMeshLaneWorker, startDataPlane } from '@meshwright/runtime-node/dataplane'
import { SeededRandom } from '@meshwright/testkit'
import { type UapiChange } from '@meshwright/wireguard/text'
import { type MeshPlane, startMeshPlane } from '../../packages/runtime-node/src/mesh-lane/mesh-plane.ts'
import type { RemoteEngine } from '../../packages/runtime-node/src/mesh-lane/remote-engine.ts'
import { type Allowed, type FireLane, INNER, microseconds, type NodeAnswer, type NodeCommand, type NodeStatus, PORTS, SOURCES } from './words.ts'

const PORT = 41_641
const MESH_MTU = 1280
const ENGINE_MTU = 1420
/** Rules beside those that count: a policy of usual size. */
const MORE_RULES = 1_000

const must = <T>(value: T | undefined): T => {
  if (value === undefined) throw new Error('the test has a mistake')
  return value
}
const prefix = (text: string): Prefix => must(parsePrefix(text))

interface Keys {
  readonly node: NodePrivateKey
  readonly key: NodePublicKey
  readonly disco: DiscoPrivateKey
  readonly discoKey: DiscoPublicKey
}

const made = new Map<number, Keys>()

/** The keys of a node: always the same ones. */
function keysOf(index: number): Keys {
  const known = made.get(index)
  if (known !== undefined) return known
  const random = new SeededRandom(40_000 + index)
  const [node, disco] = [NodePrivateKey.generate(random.bytes), DiscoPrivateKey.generate(random.bytes)]
  const keys = { node, key: node.publicKey(), disco, discoKey: disco.publicKey() }
  made.set(index, keys)
  return keys
}

/** A lane with the other end as its peer. */
interface Node {
  readonly name: string
  apply(others: readonly number[], allowed: Allowed): Promise<void>
  test(what: 'rekey' | 'collect'): void
  status(): Promise<Pick<NodeStatus, 'workerHeapBytes' | 'peers' | 'latestHandshake' | 'restarts' | 'counters' | 'drops'>>
  close(): Promise<void>
}

async function meshNode(own: number, mode: string): Promise<Node> {
  const other = own === 1 ? 2 : 1
  const log = (line: string): void => void process.stderr.write(`${line}\n`)
  const drain = (): void => {
    while (engine?.pollOutput() !== undefined);
  }
  let engine: RemoteEngine | undefined
  const plane: MeshPlane = await startMeshPlane({
    name: `fire${own}`, mtu: MESH_MTU, mode: parseLaneMode(mode), udpPort: PORT, mark: 0, workerUrl: new URL(import.meta.url),
    onStirred: drain, onService: () => undefined, log: (_level, line) => log(line), onGone: (reason) => { log(reason); process.exit(1) },
  })
  let link = 0
  engine = plane.makeEngine({
    random: systemRandom, wallClock: () => Date.now(), stopwatch: () => performance.now(), privateKey: keysOf(own).node, discoKey: keysOf(own).disco,
    mtu: MESH_MTU, allowLoopback: false, blockUdp: false, nextLink: () => (link += 1),
  })
  const address = (index: number): string => `100.64.${index >> 8}.${index & 255}`
  const more = Array.from({ length: MORE_RULES }, (_, i) => ({ SrcIPs: [`100.65.${i >> 8}.${i & 255}`], DstPorts: [{ IP: '*', Ports: { First: 20_000 + i, Last: 20_000 + i } }] }))
  const known = engine
  known.setSelfEndpoints(0 as never, [must(parseEndpoint(`10.87.0.${own}:${PORT}`))])
  const appliedOf = (others: readonly number[], allowed: Allowed): AppliedMap => {
    const peers = [other, ...others]
    // The end that sends lets nobody in: what is answered comes in by the memory of flows.
    const ports = own === 1 ? [] : [PORTS.always, PORTS[allowed], 5_201, 5_202]
    return {
      warnings: [],
      paths: peers.map((index) => ({ nodeKey: keysOf(index).key, discoKey: keysOf(index).discoKey, endpoints: [must(parseEndpoint(index === other ? `10.87.0.${index}:${PORT}` : `10.87.0.${other}:${10_000 + index}`))] })),
      plane: {
        peers: peers.map((index) => keysOf(index).key),
        routes: peers.map((index) => ({ prefix: prefix(`${address(index)}/32`), peer: keysOf(index).key.text })),
        rules: [...more, ...(ports.length === 0 ? [] : [{ SrcIPs: [address(other)], DstPorts: ports.map((port) => ({ IP: '*', Ports: { First: port, Last: port } })) }])],
        local: IpSet.from([prefix(`${address(own)}/32`)]),
      },
    }
  }
  return {
    name: plane.name,
    apply: async (others, allowed) => {
      known.apply(0 as never, appliedOf(others, allowed))
      await plane.status() // answered after it
    },
    test: (what) => plane.testWorker(what),
    status: async () => {
      await plane.fresh()
      const status = must(await plane.status())
      const key = keysOf(other).key
      const now = 0 as never // looks show the last view
      return {
        workerHeapBytes: status.heapBytes, peers: [2, 1, ...OTHERS].filter((index) => known.peer(now, keysOf(index).key) !== undefined).length,
        latestHandshake: known.peer(now, key)?.latestHandshake ?? 0, restarts: plane.restarts, counters: { ...status.counters }, drops: known.drops(now),
      }
    },
    close: () => plane.close(),
  }
}

/** Peers that come and go. */
const OTHERS: readonly number[] = Array.from({ length: 100 }, (_, i) => 3 + i)

async function engineNode(own: number, mode: string): Promise<Node> {
  const other = own === 1 ? 2 : 1
  const plane: DataPlane = await startDataPlane({
    name: `fire${own}`, mtu: ENGINE_MTU, mode: parseLaneMode(mode), workerUrl: new URL(import.meta.url),
    log: (level, line) => void (level === 'error' && process.stderr.write(`${line}\n`)), onGone: (reason) => { process.stderr.write(`${reason}\n`); process.exit(1) },
  })
  let present = new Set<number>()
  const peer = (index: number, allowedIps: readonly string[], more: object = {}): UapiChange => ({
    type: 'peer', publicKey: keysOf(index).key, remove: false, updateOnly: false, replaceAllowedIps: true, allowedIps: allowedIps.map((text) => ({ prefix: prefix(text), remove: false })),
    endpoint: { ip: must(parseIp(`10.87.0.${other}`)), port: index === other ? PORT : 10_000 + index }, ...more,
  })
  await plane.apply([{ type: 'privateKey', key: keysOf(own).node }, { type: 'listenPort', port: PORT }])
  return {
    name: plane.name,
    apply: async (others, allowed) => {
      const wanted = new Set(others)
      const changes: UapiChange[] = [peer(other, own === 1 ? ['10.88.0.2/32'] : [`${SOURCES.always}/32`, `${SOURCES[allowed]}/32`])]
      for (const index of present) if (!wanted.has(index)) changes.push(peer(index, [], { remove: true }))
      for (const index of wanted) if (!present.has(index)) changes.push(peer(index, [`10.88.1.${index}/32`]))
      present = wanted
      if ((await plane.apply(changes)) !== 0) throw new Error('not applied')
    },
    test: (what) => plane.testWorker(what),
    status: async () => {
      const { device, lane, drops, restarts } = await plane.status()
      const key = keysOf(other).key.text
      return {
        workerHeapBytes: lane.heapBytes, peers: device.peers.length, latestHandshake: device.peers.find(({ publicKey }) => publicKey.text === key)?.latestHandshake ?? 0,
        restarts, counters: { ...lane.counters }, drops: { ...Object.fromEntries(device.drops), ...drops },
      }
    },
    close: () => plane.close(),
  }
}

async function answer(node: Node, command: NodeCommand): Promise<NodeAnswer> {
  const begun = microseconds()
  const gc: unknown = Reflect.get(globalThis, 'gc')
  if (command.op === 'apply') await node.apply(command.others, command.allowed)
  if (command.op === 'rekey' || command.op === 'collect') node.test(command.op)
  if (command.op === 'collect' && typeof gc === 'function') gc()
  if (command.op !== 'status') return { begun, done: microseconds() }
  const lane = await node.status()
  const { heapUsed, rss } = process.memoryUsage()
  return { begun, done: microseconds(), status: { ...lane, mainHeapBytes: heapUsed, rssBytes: rss, descriptors: readdirSync('/proc/self/fd').length } }
}

async function main(lane: FireLane, own: number, mode: string): Promise<void> {
  const node = await (lane === 'mesh' ? meshNode(own, mode) : engineNode(own, mode))
  process.stdout.write(`${JSON.stringify({ name: node.name, address: INNER[lane][own - 1] })}\n`)
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command: NodeCommand = JSON.parse(line)
    if (command.op === 'close') break
    process.stdout.write(`${JSON.stringify(await answer(node, command))}\n`)
  }
  await node.close()
  process.exit(0)
}

if (isDataPlaneWorker()) runDataPlaneWorker()
else if (isMeshLaneWorker()) runMeshLaneWorker()
else void main(process.argv[2] === 'engine' ? 'engine' : 'mesh', Number(process.argv[3]), process.argv[4] ?? '')
