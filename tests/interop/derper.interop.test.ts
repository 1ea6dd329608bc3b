import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import http from 'node:http'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import type { RelayNode } from '@meshwright/core'
import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { DerpClient, type DerpClientInput, type DerpClientOptions, type DerpClientOutput, DerpServer } from '@meshwright/derp'
import { decodeBindingAnswer, encodeBindingRequest } from '@meshwright/nat-traversal'
import { parseIp } from '@meshwright/ip'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  attachDerpServer, type DerpConnection, type DerpDialOptions, dialDerp, drive, type Driver, metacertPem, openUdp, selfSignedCertificate, suspendAwareClock, systemRandom,
} from '@meshwright/runtime-node'
import { freePort } from './lab-process.ts'

// Our relay client against a real derper. MESHWRIGHT_INTEROP_BIN names the folder of the programs; without them the tests are skipped,
// or fail where REQUIRE_INTEROP=1.
const FOLDER = process.env.MESHWRIGHT_INTEROP_BIN
const DERPER = FOLDER === undefined ? undefined : path.join(FOLDER, 'derper')
const missing = DERPER === undefined ? 'MESHWRIGHT_INTEROP_BIN is not set' : existsSync(DERPER) ? undefined : `${DERPER} is not there`
const REQUIRED = process.env.REQUIRE_INTEROP === '1'
if (missing !== undefined && !REQUIRED) process.stdout.write(`derper interop: skipped, ${missing}\n`)
if (missing !== undefined && REQUIRED) {
  test('derper is there', () => {
    throw new Error(missing)
  })
}
const real = test.skipIf(missing !== undefined)

const MESH_KEY = Buffer.from(systemRandom(32))
const clock = suspendAwareClock()
const children: ChildProcess[] = []
const cleanup: (() => void)[] = []
let folder = ''
let port = 0
let stunPort = 0
let pin = ''

beforeAll(async () => {
  if (missing !== undefined) return
  folder = await mkdtemp(path.join(os.tmpdir(), 'meshwright-derper-'))
  ;({ port, stunPort } = { port: await freePort(), stunPort: await freePort() })
  pin = await startDerper(port, stunPort, [])
})

afterAll(async () => {
  for (const each of cleanup.splice(0)) each()
  for (const child of children) child.kill('SIGKILL')
  if (folder !== '') await rm(folder, { recursive: true, force: true })
})

real('packets pass through a real relay in both directions, under fast start', async () => {
  const a = await connect({})
  const b = await connect({})
  expect(a.connection.tlsVersion).toBe('TLSv1.3')
  expect(a.connection.serverKey).toBeDefined()
  const [connected] = await Promise.all([a.until('connected'), b.until('connected')])
  expect(connected.serverInfo).toEqual({ version: 2 })
  for (const size of [0, 1, 1400, 65_536]) {
    const bytes = systemRandom(size)
    a.send(b.key.publicKey(), bytes)
    const got = await b.until('packet')
    expect(got.source.equals(a.key.publicKey())).toBe(true)
    expect(Buffer.from(got.packet).equals(bytes)).toBe(true)
  }
  b.send(a.key.publicKey(), Buffer.from('back'))
  expect(Buffer.from((await a.until('packet')).packet).toString()).toBe('back')
  b.connection.close()
  expect(await a.until('peerGone')).toMatchObject({ reason: 0 })
})

real('without fast start the 101 answer is read and the key of the server is proven', async () => {
  const fast = await connect({})
  const slow = await connect({ fastStart: false })
  await Promise.all([fast.until('connected'), slow.until('connected')])
  expect(slow.connection.serverKey).toBeUndefined()
  expect(slow.machine.serverKey?.equals(fast.connection.serverKey ?? slow.key.publicKey())).toBe(true)
})

real('a ping is answered, and an absent peer is reported to who asks by disco', async () => {
  const a = await connect({})
  await a.until('connected')
  a.driver.act((now) => a.machine.ping(now))
  expect((await a.until('pong')).roundTripMs).toBeLessThan(3000)
  const stranger = NodePrivateKey.generate(systemRandom).publicKey()
  a.send(stranger, Buffer.concat([Buffer.from('TS💬'), systemRandom(56)]))
  const gone = await a.until('peerGone')
  expect([gone.peer.equals(stranger), gone.reason]).toEqual([true, 1])
})

real('a wrong pin is refused before anything is said', async () => {
  await expect(connect({}, { certName: `sha256-raw:${'11'.repeat(32)}` })).rejects.toMatchObject({ code: 'DERP_DIAL_CERTIFICATE' })
})

real('with the mesh key we watch a real relay, forward through it and close peers', async () => {
  const watcher = await connect({}, {}, { meshKey: MESH_KEY, watchConnections: true, canAckPings: false })
  await watcher.until('connected')
  const told = async (key: NodePublicKey): Promise<Extract<DerpClientOutput, { type: 'peerPresent' }>> => {
    for (;;) {
      const present = await watcher.until('peerPresent')
      if (present.peer.equals(key)) return present
    }
  }
  expect((await told(watcher.key.publicKey())).flags).toBe(2)
  const b = await connect({})
  await b.until('connected')
  const present = await told(b.key.publicKey())
  expect([present.flags, present.from?.ip.key]).toEqual([1, '127.0.0.1'])
  const origin = NodePrivateKey.generate(systemRandom).publicKey()
  watcher.driver.act((now) => watcher.machine.forward(now, origin, b.key.publicKey(), Buffer.from('forwarded')))
  expect((await b.until('packet')).source.equals(origin)).toBe(true)
  watcher.driver.act((now) => watcher.machine.closePeer(now, b.key.publicKey()))
  expect(await b.until('failed')).toEqual({ type: 'failed', code: 'closed' })
})

real('a relay that asks an admission endpoint lets us in or closes', async () => {
  const allowed = NodePrivateKey.generate(systemRandom)
  const web = http.createServer((request, response) => {
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => response.end(JSON.stringify({ Allow: body.includes(allowed.publicKey().text) })))
  })
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => web.close())
  const derpPort = await freePort()
  const certName = await startDerper(derpPort, await freePort(), ['-verify-client-url', `http://127.0.0.1:${(web.address() as AddressInfo).port}/verify`])
  const good = await connect({}, { derpPort, certName }, { privateKey: allowed })
  await good.until('connected')
  const bad = await connect({}, { derpPort, certName })
  expect(await bad.until('failed')).toEqual({ type: 'failed', code: 'closed' })
})

real('a real relay of our region dials our relay, watches it and forwards to its clients', async () => {
  const certificate = selfSignedCertificate(['127.0.0.1'])
  const trusted = path.join(folder, 'ours.crt')
  await writeFile(trusted, certificate.cert)
  const server = new DerpServer({ privateKey: NodePrivateKey.generate(systemRandom), random: systemRandom, meshKey: MESH_KEY })
  const web = https.createServer({ cert: certificate.cert + metacertPem(server.publicKey), key: certificate.key })
  const service = attachDerpServer(web, server, { clock })
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => {
    service.close()
    web.close()
  })
  const ours = (web.address() as AddressInfo).port
  const theirs = await freePort()
  const theirPin = await startDerper(theirs, await freePort(), ['-mesh-with', `127.0.0.1:${ours}`], { SSL_CERT_FILE: trusted })
  const here = await connect({}, { derpPort: ours, certName: certificate.pin })
  await here.until('connected')
  for (let i = 0; i < 200 && server.stats().watchers === 0; i += 1) await new Promise((resolve) => setTimeout(resolve, 50))
  expect(server.stats().watchers).toBe(1)
  const there = await connect({}, { derpPort: theirs, certName: theirPin })
  await there.until('connected')
  // The real relay learns of our client by PeerPresent; until then it drops.
  const arrived = here.until('packet')
  const sending = setInterval(() => there.send(here.key.publicKey(), Buffer.from('across')), 50)
  const packet = await arrived
  clearInterval(sending)
  expect(packet.source.equals(there.key.publicKey())).toBe(true)
  expect(Buffer.from(packet.packet).toString()).toBe('across')
  expect(server.stats().forwardedIn).toBeGreaterThan(0)
})

real('keepalives of a real relay keep a quiet connection', async () => {
  const a = await connect({})
  await a.until('connected')
  await new Promise((resolve) => setTimeout(resolve, 70_000))
  expect(a.machine.state).toBe('connected')
  expect(a.chunksSinceConnected()).toBeGreaterThan(0)
})

real('the STUN side of a real relay tells us our address', async () => {
  const ip = parseIp('127.0.0.1')
  if (ip === undefined) throw new Error('address')
  const answer = await new Promise<Uint8Array>((resolve, reject) => {
    void openUdp({ ipv6: false, onDatagram: resolve, onError: reject }).then((udp) => {
      cleanup.push(() => void udp.close())
      udp.send({ ip, port: stunPort }, encodeBindingRequest(systemRandom(12)))
    }, reject)
  })
  expect(decodeBindingAnswer(answer)).toMatchObject({ type: 'mapped', endpoint: { ip } })
})

interface Client {
  readonly key: NodePrivateKey
  readonly machine: DerpClient
  readonly connection: DerpConnection
  readonly driver: Driver<DerpClientInput>
  send(to: NodePublicKey, bytes: Uint8Array): void
  chunksSinceConnected(): number
  until<T extends DerpClientOutput['type']>(type: T): Promise<Extract<DerpClientOutput, { type: T }>>
}

async function connect(options: Partial<DerpDialOptions>, node: Partial<RelayNode> = {}, more: Partial<DerpClientOptions> = {}): Promise<Client> {
  const connection = await dialDerp({ node: { name: '900a', regionId: 900, hostName: '127.0.0.1', certName: pin, derpPort: port, ...node }, ...options })
  cleanup.push(() => connection.close())
  const key = more.privateKey ?? NodePrivateKey.generate(systemRandom)
  const machine = new DerpClient({ random: systemRandom, preferred: true, ...more, privateKey: key })
  const seen: DerpClientOutput[] = []
  const waiting: { type: string; resolve: (output: never) => void }[] = []
  let chunks = 0
  const driver: Driver<DerpClientInput> = drive<DerpClientInput, DerpClientOutput>(machine, clock, (output) => {
    if (output.type === 'write') return connection.write(output.bytes)
    if (output.type === 'close') return connection.close()
    if (output.type === 'connected') chunks = 0
    const at = waiting.findIndex((each) => each.type === output.type)
    if (at >= 0) waiting.splice(at, 1)[0]?.resolve(output as never)
    else seen.push(output)
  })
  driver.feed({ type: 'opened', ...(connection.serverKey && { serverKey: connection.serverKey }) })
  connection.start({
    bytes: (bytes) => {
      chunks += 1
      driver.feed({ type: 'bytes', bytes })
    },
    writable: () => driver.feed({ type: 'writable' }),
    closed: () => driver.feed({ type: 'closed' }),
  })
  return {
    key,
    machine,
    connection,
    driver,
    send: (to, bytes) => driver.act((now) => machine.send(now, to, bytes)),
    chunksSinceConnected: () => chunks,
    until: (type) =>
      new Promise((resolve) => {
        const at = seen.findIndex((each) => each.type === type)
        if (at >= 0) resolve(seen.splice(at, 1)[0] as never)
        else waiting.push({ type, resolve })
      }),
  }
}

/** Starts a derper on loopback; gives the pin of the certificate that it makes for itself. */
async function startDerper(derpPort: number, stun: number, args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const config = path.join(folder, `derper-${derpPort}.json`)
  const psk = path.join(folder, 'mesh.key')
  await writeFile(config, JSON.stringify({ PrivateKey: NodePrivateKey.generate(systemRandom).formatSecret() }), { mode: 0o600 })
  await writeFile(psk, `${MESH_KEY.toString('hex')}\n`, { mode: 0o600 })
  const all = ['-c', config, '-a', `127.0.0.1:${derpPort}`, '-certmode', 'manual', '-certdir', folder, '-hostname', '127.0.0.1', '-http-port', '-1']
  const child = spawn(DERPER ?? '', [...all, '-stun-port', String(stun), '-mesh-psk-file', psk, ...args], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  children.push(child)
  let log = ''
  const note = (chunk: Buffer): void => {
    log += chunk.toString()
  }
  child.stdout.on('data', note)
  child.stderr.on('data', note)
  for (let i = 0; i < 300; i += 1) {
    if (child.exitCode !== null) throw new Error(`derper ended: ${log}`)
    if (await answers(derpPort)) break
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  const found = /sha256-raw:[0-9a-f]{64}/.exec(log)?.[0]
  if (found !== undefined) return found
  const pem = await readFile(path.join(folder, '127.0.0.1.crt'), 'utf8')
  const { X509Certificate } = await import('node:crypto')
  return `sha256-raw:${new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase()}`
}

function answers(tcpPort: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(tcpPort, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
