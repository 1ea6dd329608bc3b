import { instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { formatEndpoint, parseEndpoint, parsePrefix } from '@meshwright/ip'
import { SeededRandom } from '@meshwright/testkit'
import { UAPI_EIO, type UapiPeerChange } from '@meshwright/wireguard/text'
import { expect, test } from 'vitest'
import { nodeCryptoProvider } from '../node-crypto.ts'
import { DataPlane, type DataPlaneOptions } from './data-plane.ts'
import { NO_OFFLOADS } from './give-up-offloads.ts'
import { withoutSessions } from './kept-status.ts'
import { noLaneCounters } from './lane-context.ts'
import { parseLaneMode } from './lane-mode.ts'
import { must } from './lanes-for-tests.ts'
import { TUNSETOFFLOAD, UDP_GRO } from './linux-abi.ts'
import { FDS, notingBorder, planeWorker } from './planes-for-tests.ts'
import { type UdpPath, udpPathTo } from './socket-address.ts'
import { TunnelEngine } from './tunnel-engine.ts'

// What the main thread does around workers that die; they are some lines in the place of a lane, and the kernel is one that notes.
const peer = NodePrivateKey.generate(new SeededRandom(1).bytes).publicKey()
const configured: UapiPeerChange = { type: 'peer', publicKey: peer, remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [{ prefix: must(parsePrefix('10.0.0.2/32')), remove: false }], endpoint: must(parseEndpoint('192.0.2.2:1000')), persistentKeepaliveSeconds: 25 }
const DIES = "setTimeout(() => { throw new Error('oh') }, 5); post({ type: 'ready' })"

interface Started {
  readonly plane: DataPlane
  readonly lines: string[]
  readonly kernel: ReturnType<typeof notingBorder>
}

async function start(worker: URL, mode: string, hasRows: boolean = false): Promise<Started> {
  const kernel = notingBorder()
  const lines: string[] = []
  const options: DataPlaneOptions = { name: 'mem0', mtu: 1420, mode: parseLaneMode(mode), hungMs: 2_000, workerUrl: worker, log: (_level, line) => void lines.push(line) }
  const plane = new DataPlane(options, kernel.main, { fd: FDS.tun, name: 'mem0', hasVnetHeader: hasRows, tso: hasRows, uso: hasRows })
  await plane.begin()
  return { plane, lines, kernel }
}

async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 5))
}

test('sockets that no worker closes are closed with the interface', async () => {
  for (const [onMessage, isClosed] of [["if (message.type === 'close') end({ type: 'answer', id: message.id, errno: 0 })", true], ["if (message.type === 'close') process.exit(0)", false]] as const) {
    const { plane, kernel } = await start(planeWorker(onMessage), 'noffload')
    await plane.close()
    expect(kernel.closed).toEqual(isClosed ? [FDS.wake, FDS.tun] : [FDS.wake, FDS.socket, FDS.tun])
  }
})

const ENDS = "if (message.type === 'close') end({ type: 'answer', id: message.id, errno: 0 })"
const MOVES = `post({ type: 'sockets', pair: { ipv4: ${FDS.otherSocket}, ipv6: -1, port: 5001 } })`

test('sockets that a worker had given up when it died are closed; those that it has closed itself, and those of now, are not', async () => {
  for (const [said, closed] of [['', [FDS.socket]], ["post({ type: 'closing' })", []]] as const) {
    const { plane, lines, kernel } = await start(planeWorker(`if (message.type === 'set') { ${MOVES}; ${said}; process.exit(0) }\n${ENDS}`, "post({ type: 'log', level: 'verbose', line: JSON.stringify(sockets ?? null) }); post({ type: 'ready' })"), 'noffload')
    expect(await plane.apply([{ type: 'listenPort', port: 5001 }])).toBe(UAPI_EIO)
    await until(() => lines.length === 3)
    expect([lines[0], must(lines[1]).includes('it is started again'), lines[2]]).toEqual(['null', true, JSON.stringify({ ipv4: FDS.otherSocket, ipv6: -1, port: 5001 })])
    expect(kernel.closed).toEqual(closed)
    await plane.close()
    expect(kernel.closed).toEqual([...closed, FDS.wake, FDS.tun])
  }
})

test('of a data plane that is closed without a word of its worker, both pairs of sockets are closed', async () => {
  const { plane, kernel } = await start(planeWorker(`if (message.type === 'set') { ${MOVES}; post({ type: 'answer', id: message.id, errno: 0 }) }\nif (message.type === 'close') process.exit(0)`), 'noffload')
  await plane.apply([{ type: 'listenPort', port: 5001 }])
  await plane.close()
  expect(kernel.closed).toEqual([FDS.wake, FDS.socket, FDS.otherSocket, FDS.tun])
})

test('a place that a worker tells of late does not take the place of one that was configured meanwhile: the next worker begins with the newer one', async () => {
  const roamed = `post({ type: 'roamed', peer: Uint8Array.from(${JSON.stringify([...peer.bytes])}), endpoint: '192.0.2.3:1' })`
  const answer = "post({ type: 'answer', id: message.id, errno: 0 })"
  // Said before the worker has taken the change, or after it: then the peer is there, as it says itself.
  for (const [said, endpoint] of [[`${roamed}; ${answer}`, '192.0.2.2:1000'], [`${answer}; ${roamed}`, '192.0.2.3:1']] as const) {
    const { plane, lines } = await start(planeWorker(`if (message.type === 'set') { ${said}; setTimeout(() => process.exit(0), 20) }\n${ENDS}`, "post({ type: 'log', level: 'verbose', line: config }); post({ type: 'ready' })"), 'noffload')
    expect(await plane.apply([configured])).toBe(0)
    await until(() => lines.filter((line) => line.startsWith('set=1')).length === 2)
    expect(/^endpoint=(.*)$/m.exec(must(lines.at(-1)))?.[1]).toBe(endpoint)
    // It was there all the same.
    expect(plane.placesOf(peer).map((place) => formatEndpoint(place.endpoint))).toEqual(['192.0.2.3:1'])
    await plane.close()
  }
  // A change of something else leaves the place to the peer.
  const { plane, lines } = await start(planeWorker(`if (message.type === 'set' && /endpoint=/.test(message.text)) ${answer}\nelse if (message.type === 'set') { ${roamed}; ${answer}; setTimeout(() => process.exit(0), 20) }\n${ENDS}`, "post({ type: 'log', level: 'verbose', line: config }); post({ type: 'ready' })"), 'noffload')
  const { endpoint: _, ...more } = configured
  expect([await plane.apply([configured]), await plane.apply([more])]).toEqual([0, 0])
  await until(() => lines.filter((line) => line.startsWith('set=1')).length === 2)
  expect(/^endpoint=(.*)$/m.exec(must(lines.at(-1)))?.[1]).toBe('192.0.2.3:1')
  await plane.close()
})

test('with the sixth death neither the device nor the sockets give rows any more, and the next worker is told so', async () => {
  const { plane, lines, kernel } = await start(planeWorker("if (message.type === 'close') end({ type: 'answer', id: message.id, errno: 0 })", `if (Object.values(offloads).includes(true)) { ${DIES} } else { post({ type: 'log', level: 'error', line: JSON.stringify(offloads) }); post({ type: 'ready' }) }`), 'offload', true)
  await until(() => lines.some((line) => line.startsWith('{')))
  expect(JSON.parse(must(lines.at(-1)))).toEqual({ tso: false, uso: false, udpJoin: false, gso: false, gro: false })
  expect(kernel.set).toEqual([[FDS.tun, TUNSETOFFLOAD, 0], [FDS.socket, UDP_GRO, 0]])
  await plane.close()
})

test('between two workers an interface is shown as it was configured to be; changes are refused and remembered', async () => {
  const { plane, lines } = await start(planeWorker('', DIES), 'noffload')
  await until(() => lines.some((line) => line.includes('again and again')))
  expect(await plane.apply([configured])).toBe(UAPI_EIO)
  const shown = await plane.shown()
  expect([shown.name, shown.listenPort, shown.privateKey, shown.peers.length]).toEqual(['mem0', 5000, undefined, 1])
  expect(shown.peers[0]).toMatchObject({ receivedBytes: 0, sentBytes: 0, persistentKeepaliveSeconds: 25, endpoint: configured.endpoint, allowedIps: [{ bits: 32 }] })
  await expect(plane.status()).rejects.toMatchObject({ code: 'DATAPLANE_WORKER' })
  await plane.close()
})

test('of places only those of peers that are there are kept', async () => {
  const { plane, lines } = await start(planeWorker(`
    if (message.type === 'set') {
      for (const port of [1, 2]) post({ type: 'roamed', peer: Uint8Array.from(${JSON.stringify([...peer.bytes])}), endpoint: '192.0.2.3:' + port })
      post({ type: 'answer', id: message.id, errno: 0 })
    }
    if (message.type === 'close') end({ type: 'answer', id: message.id, errno: 0 })`), 'noffload')
  const places = (): readonly string[] => plane.placesOf(peer).map(({ endpoint }) => formatEndpoint(endpoint))
  expect([await plane.apply([configured]), places()]).toEqual([0, ['192.0.2.3:1', '192.0.2.3:2']])
  // What was under way when the peer was removed is of nobody.
  expect([await plane.apply([{ ...configured, remove: true }]), places()]).toEqual([0, []])
  expect(lines).toEqual([])
  await plane.close()
})

test('a status without sessions has the counters of the one before, and nobody with a session', () => {
  const engine = new TunnelEngine<UdpPath>({ name: 'mem0', pathTo: udpPathTo, provider: nodeCryptoProvider, mtu: 1420, log: () => undefined })
  const now = instant(1_000)
  engine.change(now, { type: 'privateKey', key: NodePrivateKey.generate(new SeededRandom(2).bytes) })
  engine.change(now, configured)
  const lane = { provider: 'x', offloads: NO_OFFLOADS, counters: noLaneCounters(), joined: { rows: 0, packets: 0 }, port: 1, heapBytes: 0 }
  const device = engine.status(now)
  const [one] = device.peers
  const before = { lane, drops: engine.drops, device: { ...device, peers: [{ ...must(one), state: 'established' as const, sessionAgeMs: 7, stagedPackets: 8, receivedBytes: 9 }] } }
  const [after] = withoutSessions(before).device.peers
  expect(after).toMatchObject({ publicKey: peer, state: 'idle', stagedPackets: 0, receivedBytes: 9 })
  expect(after?.sessionAgeMs).toBe(undefined)
})
