import { createServer, type Server } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { applyMapResponse, type NetworkMap } from '@meshwright/control-client'
import type { Node, Service } from '@meshwright/control-protocol'
import { NodePrivateKey } from '@meshwright/crypto'
import { parseIp } from '@meshwright/ip'
import { afterEach, expect, test } from 'vitest'
import { type PeerApiDoors, pingPeerApi } from './peer-api-ping.ts'
import { systemRandom } from './random.ts'

const ip = parseIp('100.64.0.2') ?? expect.fail('no address')
const open: Server[] = []
afterEach(() => {
  for (const server of open.splice(0)) server.close()
})

function mapWith(services: readonly Service[], own: readonly string[] = ['100.64.0.1/32', 'fd7a:115c:a1e0::1/128']): NetworkMap {
  const node = (id: number, Addresses: readonly string[], more: Partial<Node> = {}): Node => ({ ID: id, StableID: String(id), Name: `n${id}.mesh.test.`, User: 1, Key: NodePrivateKey.generate(systemRandom).publicKey().text, Addresses, MachineAuthorized: true, ...more })
  const peer = node(2, ['100.64.0.2/32', 'fd7a:115c:a1e0::2/128'], { Hostinfo: { Services: services } })
  return applyMapResponse(undefined, { Node: node(1, own), Peers: [peer] }, Date.now()) ?? expect.fail('no map')
}

/** A node whose every connection ends at a server on this computer that answers with a status; `undefined`: nobody answers. */
async function nodeAt(map: NetworkMap, status: number | undefined): Promise<PeerApiDoors & { readonly dialled: readonly string[] }> {
  const dialled: string[] = []
  const server = createServer((_request, response) => void (status !== undefined && response.writeHead(status).end()))
  open.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    dialled,
    networkMap: () => map,
    dialTcp: (host, port) => {
      dialled.push(`${host} ${port}`)
      const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
      return new Promise((resolve) => socket.once('connect', () => resolve(socket)))
    },
  }
}

test('the PeerAPI of a peer is asked by a family that both have, and its address is told', async () => {
  const both = [{ Proto: 'peerapi4', Port: 4_001 }, { Proto: 'peerapi6', Port: 4_002 }]
  const four = await nodeAt(mapWith(both), 200)
  expect(await pingPeerApi(four, ip, {})).toMatchObject({ error: undefined, nodeName: 'n2.mesh.test.', peerApiUrl: 'http://100.64.0.2:4001' })
  const six = await nodeAt(mapWith(both, ['fd7a:115c:a1e0::1/128']), 200)
  expect(await pingPeerApi(six, ip, {})).toMatchObject({ error: undefined, peerApiUrl: 'http://[fd7a:115c:a1e0::2]:4002' })
  expect([four.dialled, six.dialled]).toEqual([['100.64.0.2 4001'], ['fd7a:115c:a1e0::2 4002']])
})

test('nobody there, no PeerAPI, another status and silence are told apart', async () => {
  const api = [{ Proto: 'peerapi4', Port: 4_001 }]
  const error = async (node: PeerApiDoors, to = ip, timeoutMs = 30_000): Promise<string | undefined> => (await pingPeerApi(node, to, { timeoutMs })).error
  expect(await error(await nodeAt(mapWith(api), 200), parseIp('100.64.0.9'))).toBe('no peer found with Tailscale IP 100.64.0.9')
  expect(await error(await nodeAt(mapWith([]), 200))).toBe('no PeerAPI base found for peer 2 (100.64.0.2)')
  expect(await error(await nodeAt(mapWith(api), 404))).toBe('HTTP status 404')
  expect(await error(await nodeAt(mapWith(api), undefined), ip, 200)).toBe('no answer in time')
})
