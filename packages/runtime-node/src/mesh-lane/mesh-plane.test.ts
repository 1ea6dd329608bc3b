import { expect, test } from 'vitest'
import { parseLaneMode } from '../dataplane/lane-mode.ts'
import { FDS, notingBorder, planeWorker } from '../dataplane/planes-for-tests.ts'
import { MeshPlane } from './mesh-plane.ts'

const tun = { fd: FDS.tun, name: 'mem0', hasVnetHeader: false, tso: false, uso: false }
const options = { name: 'mem0', mtu: 1280, mode: parseLaneMode('noffload'), udpPort: 0, mark: 0, hungMs: 2_000, onStirred: () => undefined, onService: () => undefined, log: () => undefined, onGone: () => undefined }

test('sockets that no worker closes are closed with the data plane of a node: one that hangs, one that dies', async () => {
  for (const [onMessage, isClosed] of [["if (message.type === 'stop') end({ type: 'stopped' })", true], ['', false], ["if (message.type === 'stop') process.exit(0)", false]] as const) {
    const { main, closed } = notingBorder()
    const plane = new MeshPlane({ ...options, workerUrl: planeWorker(onMessage) }, main, tun)
    await plane.begin()
    await plane.close()
    expect(closed).toEqual(isClosed ? [FDS.wake, FDS.tun] : [FDS.wake, FDS.socket, FDS.tun])
  }
})
