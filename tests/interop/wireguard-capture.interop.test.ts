import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { systemRandom } from '@meshwright/runtime-node'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { noteKeys, readWatch, WATCH_FOLDER } from './outer-watch.ts'
import { Capture, findLeaks, PLAINTEXT_MARKER, whyNoCapture } from './wireguard-capture.ts'
import { until } from './wireguard-lab.ts'
import { whyNoNamespaces } from './wireguard-programs.ts'

// Every other suite trusts that the search finds what is outside: here it is planted.
const missing = whyNoNamespaces() ?? whyNoCapture()
const namespace = `mwcap${process.pid.toString(36)}`
let folder = ''

beforeEach(() => {
  if (missing !== undefined) return
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-capture-'))
  execFileSync('ip', ['netns', 'add', namespace])
  execFileSync('ip', ['-n', namespace, 'link', 'set', 'lo', 'up'])
})
afterEach(() => {
  if (missing !== undefined) return
  spawnSync('ip', ['netns', 'del', namespace])
  rmSync(folder, { recursive: true, force: true })
})

/** Sends datagrams over the loopback of the namespace while it is captured; gives the findings. */
async function capture(datagrams: readonly Uint8Array[], secrets: ReadonlyMap<string, Uint8Array> = new Map()): Promise<readonly string[]> {
  const capturing = await Capture.start(namespace, 'lo', path.join(folder, 'lo.pcap'))
  const script = `
    const socket = require('node:dgram').createSocket('udp4')
    const all = JSON.parse(process.argv[1])
    const next = () => all.length === 0 ? socket.close() : socket.send(Buffer.from(all.shift(), 'hex'), 51820, '127.0.0.1', next)
    next()`
  execFileSync('ip', ['netns', 'exec', namespace, process.execPath, '-e', script, JSON.stringify(datagrams.map((bytes) => Buffer.from(bytes).toString('hex')))])
  await until(() => capturing.datagrams().length >= datagrams.length, 5_000, 'the datagrams are not in the capture')
  return capturing.finish(secrets)
}

/** A transport message: type, receiver index, counter, 16 bytes. */
function transport(receiver: number, counter: bigint): Uint8Array {
  const message = Buffer.alloc(32)
  message.writeUInt32LE(4, 0)
  message.writeUInt32LE(receiver, 4)
  message.writeBigUInt64LE(counter, 8)
  message.set(systemRandom(16), 16)
  return message
}

test.runIf(missing === undefined || process.env['REQUIRE_INTEROP'] === '1')('what is planted on the line is found, and nothing else [tcpdump]', async () => {
  if (missing !== undefined) throw new Error(missing)
  const key = systemRandom(32)
  const secrets = new Map([['the key', key], ['another key', systemRandom(32)]])
  const innocent = [systemRandom(1400), transport(7, 0n), transport(7, 1n), transport(8, 0n), transport(8, 2n ** 63n)]
  expect(await capture(innocent, secrets)).toEqual([])
  expect(await capture([...innocent, Buffer.from(`GET / ${PLAINTEXT_MARKER} 17`)], secrets)).toEqual(['plaintext is on the wire'])
  expect(await capture([Buffer.concat([systemRandom(3), key, systemRandom(9)])], secrets)).toEqual(['the key is on the wire'])
  expect(await capture([Buffer.from(`PrivateKey = ${Buffer.from(key).toString('base64')}`)], secrets)).toEqual(['the key is on the wire'])
  expect(await capture([Buffer.from(`private_key=${Buffer.from(key).toString('hex')}`)], secrets)).toEqual(['the key is on the wire'])
  expect(await capture([transport(9, 2n ** 53n + 1n), transport(9, 2n ** 53n), transport(9, 2n ** 53n + 1n)], secrets)).toEqual([`receiver index 9 and counter ${2n ** 53n + 1n} came twice, to 127.0.0.1:51820`])
})

test('what is no capture is not taken for one that is clean', () => {
  expect(findLeaks(Buffer.alloc(0), new Map())).toEqual(['the capture is not readable'])
})

test('a whole run is searched: messages that one frame carries, private keys of state files, plaintext', () => {
  const watch = mkdtempSync(path.join(os.tmpdir(), 'meshwright-watch-'))
  const state = mkdtempSync(path.join(os.tmpdir(), 'meshwright-state-'))
  const before = process.env[WATCH_FOLDER]
  try {
    process.env[WATCH_FOLDER] = watch
    const [key, wrapped] = [systemRandom(32), systemRandom(32)]
    writeFileSync(path.join(state, 'state.json'), JSON.stringify({ a: `privkey:${Buffer.from(key).toString('hex')}`, b: Buffer.from(`{"k":"privkey:${Buffer.from(wrapped).toString('hex')}"}`).toString('base64') }))
    noteKeys(state)
    const many = Buffer.concat([transport(7, 0n), transport(7, 1n), transport(7, 2n)])
    const look = (...datagrams: readonly Uint8Array[]): { readonly findings: readonly string[]; readonly messages: number; readonly keys: number } => {
      writeFileSync(path.join(watch, 'wire.pcap'), pcapOf(datagrams))
      return readWatch(watch)
    }
    expect(look(many, transport(7, 3n), systemRandom(9_000))).toMatchObject({ findings: [], messages: 4, keys: 2, datagrams: 3 })
    expect(look(many, transport(7, 1n)).findings).toEqual(['receiver index 7 and counter 1 came twice, with other bytes, 0.000 ms later, 64 and 64 hops left, from 127.0.0.1:1 to 127.0.0.1:2 (wire.pcap)'])
    expect(look(many, many.subarray(32, 64)).findings).toEqual(['receiver index 7 and counter 1 came twice, with the same bytes, 0.000 ms later, 64 and 64 hops left, from 127.0.0.1:1 to 127.0.0.1:2 (wire.pcap)'])
    expect(look(Buffer.concat([systemRandom(5), key])).findings).toEqual(['a private key from 127.0.0.1:1 to 127.0.0.1:2 (wire.pcap)'])
    expect(look(Buffer.from(`k=${Buffer.from(wrapped).toString('base64')}`)).findings).toHaveLength(1)
    expect(look(Buffer.from(`body ${PLAINTEXT_MARKER}`)).findings).toEqual(['plaintext from 127.0.0.1:1 to 127.0.0.1:2 (wire.pcap)'])
  } finally {
    if (before === undefined) delete process.env[WATCH_FOLDER]
    else process.env[WATCH_FOLDER] = before
    for (const folder of [watch, state]) rmSync(folder, { recursive: true, force: true })
  }
})

/** A capture file with one Ethernet frame for each datagram. */
function pcapOf(datagrams: readonly Uint8Array[]): Buffer {
  const header = Buffer.alloc(24)
  header.writeUInt32LE(0xa1b2c3d4, 0)
  const frames = datagrams.map((payload) => {
    const frame = Buffer.alloc(16 + 14 + 28 + payload.length)
    frame.writeUInt32LE(frame.length - 16, 8)
    frame.writeUInt32LE(frame.length - 16, 12)
    frame.writeUInt16BE(0x0800, 16 + 12)
    frame.set([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1, 0, 1, 0, 2], 30)
    frame.writeUInt16BE(8 + payload.length, 54)
    frame.set(payload, 58)
    return frame
  })
  return Buffer.concat([header, ...frames])
}
