import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { NodePrivateKey } from '@meshwright/crypto'
import { DerpClient, type DerpClientInput, type DerpClientOutput } from '@meshwright/derp'
import { dialDerp, drive, type Driver, suspendAwareClock, systemRandom } from '@meshwright/runtime-node/relay'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { freePort } from '../../demo/src/free-port.ts'
import { parseOptions, UsageError } from './options.ts'
import { type Relay, startRelay } from './relay.ts'

let folder = ''
const cleanup: (() => void | Promise<void>)[] = []
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-relay-'))
})
afterEach(async () => {
  for (const each of cleanup.splice(0).reverse()) await each()
  rmSync(folder, { recursive: true, force: true })
})

const file = (name: string): string => path.join(folder, name)

async function start(...args: readonly string[]): Promise<Relay> {
  const options = parseOptions(['--key-file', file('relay.json'), '--addr', '127.0.0.1:0', '--stun-port', '0', ...args])
  if (options === undefined) throw new Error('help')
  const relay = await startRelay(options, () => undefined)
  cleanup.push(() => relay.close())
  return relay
}

/** Connects as a client would that was given this line of the DERP map; resolves when the relay has let it in. */
async function join(relay: Relay, plainHttp: boolean): Promise<{ key: NodePrivateKey; send: (to: NodePrivateKey, text: string) => void; packet: Promise<string> }> {
  const certName = relay.node.CertName
  const connection = await dialDerp({
    node: { name: 'x', regionId: 900, hostName: String(relay.node.HostName), derpPort: Number(relay.node.DERPPort), ...(typeof certName === 'string' && { certName }) },
    plainHttp,
  })
  cleanup.push(() => connection.close())
  const key = NodePrivateKey.generate(systemRandom)
  const client = new DerpClient({ privateKey: key, random: systemRandom })
  const events = { connected: (): void => undefined, packet: (_text: string): void => undefined }
  const connected = new Promise<void>((resolve) => (events.connected = resolve))
  const packet = new Promise<string>((resolve) => (events.packet = resolve))
  const driver: Driver<DerpClientInput> = drive<DerpClientInput, DerpClientOutput>(client, suspendAwareClock(), (output) => {
    if (output.type === 'write') connection.write(output.bytes)
    if (output.type === 'connected') events.connected()
    if (output.type === 'packet') events.packet(Buffer.from(output.packet).toString())
  })
  cleanup.push(() => driver.stop())
  driver.feed({ type: 'opened', ...(connection.serverKey && { serverKey: connection.serverKey }) })
  connection.start({
    bytes: (bytes) => driver.feed({ type: 'bytes', bytes }),
    writable: () => driver.feed({ type: 'writable' }),
    closed: () => driver.feed({ type: 'closed' }),
  })
  await connected
  return { key, packet, send: (to, text) => void driver.act((now) => client.send(now, to.publicKey(), Buffer.from(text))) }
}

test.each([['--http'], ['--self-signed']])('two clients talk through a relay started with %s, and its metrics count it', async (flag) => {
  const relay = await start(flag)
  const [a, b] = [await join(relay, flag === '--http'), await join(relay, flag === '--http')]
  a.send(b.key, 'hello')
  expect(await b.packet).toBe('hello')
  if (flag !== '--http') return
  const text = await (await fetch(`http://127.0.0.1:${relay.port}/metrics`)).text()
  expect(text).toContain('derp_packets_sent 1\n')
  expect(text).toContain('derp_current_connections 2\n')
})

test('two relays of a region hand packets to each other, both ways, and one that dials itself stops', async () => {
  writeFileSync(file('mesh.key'), '7'.repeat(64))
  const ports = [await freePort(), await freePort()]
  const lines: string[] = []
  const relays: Relay[] = []
  for (const [i, port] of ports.entries()) {
    const others = ports.map((each) => `http://127.0.0.1:${each}`).join(',') // itself among them
    const options = parseOptions(['--key-file', file(`relay-${i}.json`), '--http', '--addr', `127.0.0.1:${port}`, '--stun-port', '-1', '--mesh-psk-file', file('mesh.key'), '--mesh-with', others])
    if (options === undefined) throw new Error('help')
    const relay = await startRelay(options, (line) => lines.push(line))
    cleanup.push(() => relay.close())
    relays.push(relay)
  }
  const [first, second] = relays
  if (first === undefined || second === undefined) throw new Error('two relays')
  const [a, b] = [await join(first, true), await join(second, true)]
  // The second was not there yet when the first dialled: it comes again after 5 s.
  for (const [from, to, text] of [[b, a, 'to the first'], [a, b, 'to the second']] as const) {
    const sending = setInterval(() => from.send(to.key, text), 50)
    expect(await to.packet).toBe(text)
    clearInterval(sending)
  }
  await expect.poll(() => lines.filter((line) => line.includes('is this relay itself'))).toHaveLength(2)
})

test('the private key is made once, readable by the owner alone, and kept', async () => {
  await start('--http')
  const before = readFileSync(file('relay.json'), 'utf8')
  expect(statSync(file('relay.json')).mode & 0o777).toBe(0o600)
  await start('--http')
  expect(readFileSync(file('relay.json'), 'utf8')).toBe(before)
})

test('a self-signed certificate is kept where files are named, so that its pin stays', async () => {
  const files = ['--self-signed', '--cert', file('relay.crt'), '--key', file('relay.key')]
  const first = (await start(...files)).node.CertName
  expect(statSync(file('relay.key')).mode & 0o777).toBe(0o600)
  expect((await start(...files)).node.CertName).toBe(first)
})

test('an admission endpoint decides who may use the relay', async () => {
  let allow = false
  const web = http.createServer((_request, response) => response.end(JSON.stringify({ Allow: allow })))
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve))
  cleanup.push(() => void web.close())
  const address = web.address()
  const relay = await start('--http', '--verify-client-url', `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}/`)
  const refused = join(relay, true)
  expect(await Promise.race([refused.then(() => 'in'), new Promise((resolve) => setTimeout(resolve, 300, 'waiting'))])).toBe('waiting')
  allow = true
  await join(relay, true)
})

test.each<[readonly string[], string]>([
  [[], '--key-file is missing'],
  [['--wrong'], "Unknown option '--wrong'"],
  [['--key-file', 'KEY', '--addr', 'x:1', '--http'], '--addr x:1 is not of the form'],
  [['--key-file', 'KEY', '--addr', ':99999', '--http'], '--addr must be a number from 0 to 65535, not 99999'],
  [['--key-file', 'KEY'], 'a certificate is missing'],
  [['--key-file', 'KEY', '--http', '--mesh-with', 'a:1'], '--mesh-with needs --mesh-psk-file'],
  [['--key-file', 'KEY', '--http', '--mesh-psk-file', 'KEY', '--mesh-with', 'a:b'], '--mesh-with a:b is not of the form'],
  [['--key-file', 'KEY', '--http', '--self-signed'], '--http and certificates exclude each other'],
  [['--key-file', 'BROKEN', '--http', '--addr', '127.0.0.1:0'], 'is not JSON'],
  [['--key-file', 'EMPTY', '--http', '--addr', '127.0.0.1:0'], 'holds no private key'],
  [['--key-file', 'KEY', '--cert', 'EMPTY', '--key', 'EMPTY', '--addr', '127.0.0.1:0'], 'the certificate or its key cannot be used'],
  [['--key-file', 'KEY', '--cert', 'NONE', '--key', 'NONE', '--addr', '127.0.0.1:0'], 'NONE cannot be read'],
])('a wrong command line %j is told in one line, and changes no file', async (args, message) => {
  writeFileSync(file('BROKEN'), '{"PrivateKey":')
  writeFileSync(file('EMPTY'), '{}')
  const files = ['KEY', 'BROKEN', 'EMPTY', 'NONE']
  const run = async (): Promise<void> => {
    const options = parseOptions(args.map((arg) => (files.includes(arg) ? file(arg) : arg)))
    if (options !== undefined) await startRelay(options, () => undefined)
  }
  const error: unknown = await run().catch((reason: unknown) => reason)
  expect(error).toBeInstanceOf(UsageError)
  expect(error).toMatchObject({ message: expect.stringContaining(message) as string })
  expect(readFileSync(file('BROKEN'), 'utf8')).toBe('{"PrivateKey":')
  expect(existsSync(file('NONE'))).toBe(false)
})

test('the program ends with status 2 for wrong options and 0 for help', () => {
  const main = fileURLToPath(new URL('main.ts', import.meta.url))
  const run = (arg: string): ReturnType<typeof spawnSync> => spawnSync(process.execPath, ['--conditions=@meshwright/source', '--import', 'tsx', main, arg], { encoding: 'utf8' })
  const wrong = run('--wrong')
  expect([wrong.status, String(wrong.stderr).split('\n', 1)[0]]).toEqual([2, expect.stringMatching(/^meshwright-relay: Unknown option '--wrong'/)])
  const help = run('--help')
  expect([help.status, String(help.stdout).startsWith('usage: meshwright-relay')]).toEqual([0, true])
})

test('a taken port is told with the remedy', async () => {
  const relay = await start('--http')
  const options = parseOptions(['--key-file', file('relay.json'), '--http', '--stun-port', '-1', '--addr', `127.0.0.1:${relay.port}`])
  if (options === undefined) throw new Error('help')
  await expect(startRelay(options, () => undefined)).rejects.toThrow(/taken by another program; choose another one with --addr/)
})

/** A figure of a relay with TLS. */
async function metric(relay: Relay, name: string): Promise<number> {
  const answer = await new Promise<string>((resolve, reject) => {
    https.get({ port: relay.port, host: '127.0.0.1', path: '/metrics', rejectUnauthorized: false, agent: false }, (response) => void text(response).then(resolve, reject)).on('error', reject)
  })
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(answer)?.[1])
}

/** A whole record with the beginning of a ClientHello of 196 bytes. */
const BEGUN_HANDSHAKE = Buffer.from('1603010006010000c40303', 'hex')

test('who says half a record is no handshake yet, and half a head no request: a place among newcomers is all that it takes', async () => {
  const relay = await start('--self-signed', '--cert', file('relay.crt'), '--key', file('relay.key'))
  const sockets = Array.from({ length: 50 }, () => net.connect(relay.port, '127.0.0.1').on('error', () => undefined))
  cleanup.push(() => sockets.forEach((socket) => socket.destroy()))
  for (const socket of sockets) socket.resume().write(BEGUN_HANDSHAKE.subarray(0, -1))
  await expect.poll(() => metric(relay, 'meshwright_newcomers'), { timeout: 10_000 }).toBeGreaterThanOrEqual(50)
  expect(await metric(relay, 'meshwright_tls_handshakes')).toBe(0)
  sockets[0]?.write(BEGUN_HANDSHAKE.subarray(-1))
  await expect.poll(() => metric(relay, 'meshwright_tls_handshakes'), { timeout: 10_000 }).toBe(1)
})

test('a head that comes byte by byte is a head', async () => {
  const relay = await start('--http')
  const socket = net.connect({ port: relay.port, host: '127.0.0.1', noDelay: true })
  cleanup.push(() => void socket.destroy())
  const answer = text(socket)
  for (const character of 'GET /robots.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n') {
    socket.write(character)
    await new Promise((resolve) => setImmediate(resolve))
  }
  expect(await answer).toContain('Disallow: /')
})

test.each(['\u00fe\u00fe\u00fe', 'get / HTTP', 'AVERYLONGMETHODTHATNOBODYKNOWS', 'GET/ HTTP', '\r\n\r\nx'])('what begins no request is refused at once: %j', async (first) => {
  const relay = await start('--http')
  const socket = net.connect({ port: relay.port, host: '127.0.0.1', noDelay: true })
  cleanup.push(() => void socket.destroy())
  const answer = text(socket)
  socket.write(first, 'latin1')
  expect(await answer).toMatch(/^HTTP\/1\.1 400 /)
})

test('a head that is too long is told so', async () => {
  const relay = await start('--http')
  const socket = net.connect({ port: relay.port, host: '127.0.0.1', noDelay: true })
  cleanup.push(() => void socket.destroy())
  const answer = text(socket)
  socket.write(`GET / HTTP/1.1\r\nX: ${'a'.repeat(20_000)}`)
  expect(await answer).toMatch(/^HTTP\/1\.1 431 /)
})

test('who says a lot before anything is answered is ended, and a record of more bytes than any has is refused at once', async () => {
  const plain = await start('--http')
  const long = net.connect({ port: plain.port, host: '127.0.0.1' }).on('error', () => undefined)
  cleanup.push(() => void long.destroy())
  const ended = new Promise((resolve) => long.resume().once('close', resolve))
  long.write(`GET / HTTP/1.1\r\nHost: x\r\n\r\n${'a'.repeat(60_000)}`)
  await ended
  const secure = await start('--self-signed', '--cert', file('relay.crt'), '--key', file('relay.key'))
  const record = net.connect({ port: secure.port, host: '127.0.0.1' }).on('error', () => undefined)
  cleanup.push(() => void record.destroy())
  const refused = new Promise((resolve) => record.resume().once('close', resolve))
  record.write(Buffer.from('160301ffff01', 'hex'))
  await refused
})

test('TLS handshakes that do not go on are bounded: the oldest give way, and a client is let in meanwhile', async () => {
  const relay = await start('--self-signed', '--cert', file('relay.crt'), '--key', file('relay.key'))
  const sockets = Array.from({ length: 700 }, () => net.connect(relay.port, '127.0.0.1').on('error', () => undefined))
  cleanup.push(() => sockets.forEach((socket) => socket.destroy()))
  for (const socket of sockets) socket.resume().write(BEGUN_HANDSHAKE)
  await expect.poll(() => metric(relay, 'meshwright_newcomers_evicted_total'), { timeout: 30_000 }).toBeGreaterThanOrEqual(700 - 256)
  expect(await metric(relay, 'meshwright_tls_handshakes')).toBeLessThanOrEqual(256)
  await join(relay, false)
})

test('who begins a TLS handshake and does not go on is closed like who sends half a head', async () => {
  const relay = await start('--self-signed', '--cert', file('relay.crt'), '--key', file('relay.key'))
  const socket = net.connect(relay.port, '127.0.0.1').on('error', () => undefined)
  cleanup.push(() => void socket.destroy())
  socket.resume().write(BEGUN_HANDSHAKE)
  await new Promise((resolve) => socket.once('close', resolve))
  expect(await metric(relay, 'meshwright_newcomers_overdue_total')).toBeGreaterThanOrEqual(1)
})

test('a relay that is told to end does so at once, also while somebody is in the middle of a TLS handshake', async () => {
  const options = parseOptions(['--key-file', file('relay.json'), '--addr', '127.0.0.1:0', '--stun-port', '-1', '--self-signed', '--cert', file('relay.crt'), '--key', file('relay.key')])
  if (options === undefined) throw new Error('help')
  const relay = await startRelay(options, () => undefined)
  const begun = net.connect(relay.port, '127.0.0.1').on('error', () => undefined)
  begun.resume().write(BEGUN_HANDSHAKE)
  const closed = new Promise((resolve) => begun.once('close', resolve))
  await expect.poll(() => metric(relay, 'meshwright_tls_handshakes')).toBe(1)
  await relay.close()
  await closed
})

test('a connection that asks without waiting for answers is over after a hundred of them', async () => {
  const relay = await start('--http')
  const socket = net.connect(relay.port, '127.0.0.1').on('error', () => undefined)
  cleanup.push(() => void socket.destroy())
  let heard = ''
  socket.setEncoding('latin1').on('data', (more: string) => (heard += more))
  socket.write('GET /a HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(2_000))
  await new Promise((resolve) => socket.once('close', resolve))
  expect(heard).not.toContain('503')
  expect((heard.match(/HTTP\/1\.1 404/g) ?? []).length).toBeLessThanOrEqual(100)
})
