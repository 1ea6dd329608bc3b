import { once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import tls from 'node:tls'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { Gate, Newcomers, type SelfSigned, selfSignedCertificate } from '@meshwright/runtime-node/relay'
import { Web, type WebOptions } from './web.ts'

// The port as strangers meet it: bytes in, bytes out.
let certificate: SelfSigned
const cleanups: (() => unknown)[] = []

beforeAll(() => {
  certificate = selfSignedCertificate(['127.0.0.1'])
})

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

interface Site {
  readonly port: number
  readonly web: Web
  readonly newcomers: Newcomers
}

/** A server that says what it was asked; `/slow` is answered when `release` is called, and upgrades of `/taken` are taken. */
async function site(options: Partial<WebOptions> = {}, held: (() => void)[] = []): Promise<Site> {
  const newcomers = new Newcomers(() => false)
  const web = new Web({
    gate: new Gate(),
    newcomers,
    trustedProxies: [],
    secrets: undefined,
    plain: true,
    request(request, response) {
      let body = ''
      request.setEncoding('utf8').on('data', (more: string) => (body += more))
      const answer = (): void => void response.end(`${request.method ?? ''} ${request.url ?? ''} ${body}`)
      request.on('end', () => (request.url === '/slow' ? void held.push(answer) : answer()))
    },
    upgrade(request, socket) {
      if (request.url !== '/taken') return false
      socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n')
      return true
    },
    ...options,
  })
  const sockets = new Set<net.Socket>()
  web.entrance.on('connection', (socket) => sockets.add(socket))
  web.entrance.listen(0, '127.0.0.1')
  await once(web.entrance, 'listening')
  cleanups.push(async () => {
    for (const socket of sockets) socket.destroy()
    await web.close()
    web.entrance.close()
    newcomers.stop()
  })
  return { port: (web.entrance.address() as AddressInfo).port, web, newcomers }
}

/** All that comes back until the other side ends the connection. */
async function talk(stream: net.Socket, ...parts: readonly (string | Buffer)[]): Promise<string> {
  cleanups.push(() => stream.destroy())
  let heard = ''
  stream.setEncoding('latin1').on('data', (more: string) => (heard += more))
  for (const part of parts) stream.write(part)
  await once(stream, 'close')
  return heard
}

const open = (port: number): net.Socket => net.connect(port, '127.0.0.1').on('error', () => undefined)
const secure = (port: number): tls.TLSSocket => tls.connect({ port, host: '127.0.0.1', ca: certificate.cert }).on('error', () => undefined)
const statuses = (heard: string): readonly string[] => heard.match(/HTTP\/1\.1 [0-9]{3}/g)?.map((line) => line.slice(9)) ?? []
const LAST = 'GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'

describe('what is no request is told so, and the connection ends', () => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['words', 'hello there\r\n\r\n', '400'],
    ['bytes', '\x00\x01\x02\xff\xfe', '400'],
    ['a method that nobody knows', 'BREW / HTTP/1.1\r\nHost: x\r\n\r\n', '400'],
    ['no version', 'GET /\r\n\r\n', '400'],
    ['a version to come', 'GET / HTTP/9.9\r\nHost: x\r\n\r\n', '400'],
    ['HTTP/2 that was not asked for', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', '400'],
    ['no host (RFC 9112, 3.2)', 'GET / HTTP/1.1\r\n\r\n', '400'],
    ['two hosts (RFC 9112, 3.2)', 'GET / HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n', '400'],
    ['a space before a colon (RFC 9112, 5.1)', 'GET / HTTP/1.1\r\nHost : x\r\n\r\n', '400'],
    ['a field without a colon', 'GET / HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n', '400'],
    ['two lengths (RFC 9112, 6.3)', 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n', '400'],
    ['a length beside chunks (RFC 9112, 6.1)', 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', '400'],
    ['a length that is no number', 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n', '400'],
    ['chunks that are none', 'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', '400'],
    ['a proxy that is asked for', 'CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n', '400'],
    ['a head of more than 16 KiB', `GET / HTTP/1.1\r\nHost: x\r\nA: ${'a'.repeat(20_000)}\r\n\r\n`, '431'],
    ['a target of more than 16 KiB', `GET /${'a'.repeat(20_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, '431'],
    ['more than 100 fields', `GET / HTTP/1.1\r\nHost: x\r\n${'A: a\r\n'.repeat(100)}\r\n`, '431'],
  ]
  for (const secrets of [false, true]) {
    test.each(cases)(`${secrets ? 'inside TLS' : 'plainly'}: %s`, async (_name, bytes, status) => {
      const { port } = await site(secrets ? { secrets: certificate } : {})
      const heard = await talk(secrets ? secure(port) : open(port), Buffer.from(bytes, 'latin1'))
      expect([statuses(heard), heard.includes('Connection: close')]).toEqual([[status], true])
    })
  }

  test('100 fields are read, and the absolute form of a target is taken', async () => {
    const { port } = await site()
    const heard = await talk(open(port), `GET / HTTP/1.1\r\nHost: x\r\n${'A: a\r\n'.repeat(99)}\r\n`, 'GET http://x:80/a?b HTTP/1.1\r\nHost: x\r\n\r\n', 'GET http://x HTTP/1.1\r\nHost: x\r\n\r\n', LAST)
    expect(heard.match(/GET .*?(?=HTTP|$)/g)).toEqual(['GET / ', 'GET /a?b ', 'GET / ', 'GET /last '])
  })

  test('an answer that is owed is given first, whole', async () => {
    const held: (() => void)[] = []
    const { port } = await site({}, held)
    const talking = talk(open(port), 'GET /slow HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n')
    await expect.poll(() => held.length).toBe(1)
    held[0]?.()
    const heard = await talking
    expect([statuses(heard), heard.indexOf('GET /slow') < heard.indexOf('HTTP/1.1 400')]).toEqual([['200', '400'], true])
  })

  test('who is refused holds no place, even without taking the answer', async () => {
    const { port, newcomers, web } = await site()
    const arrived = once(web.entrance, 'connection')
    const socket = open(port)
    socket.pause()
    socket.write('nonsense\r\n\r\n')
    cleanups.push(() => socket.destroy())
    await arrived
    expect(newcomers.figures.waiting).toBe(1)
    await expect.poll(() => newcomers.figures.waiting).toBe(0)
    expect(newcomers.figures.overdue).toBe(0) // it was not its time that ended it
  })
})

describe('a protocol that is asked for beside the answer', () => {
  const h2c = (target: string, more = ''): string => `POST ${target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n${more}\r\n`

  for (const secrets of [false, true]) {
    test(`${secrets ? 'inside TLS' : 'plainly'}: is ignored where it is not known: the request is answered, body and all, and the connection goes on`, async () => {
      const { port } = await site(secrets ? { secrets: certificate } : {})
      const heard = await talk(secrets ? secure(port) : open(port), h2c('/a', 'Content-Length: 4\r\n'), 'bo', 'dy', h2c('/b'), LAST)
      expect(heard.match(/(POST|GET) .*?(?=HTTP|$)/g)).toEqual(['POST /a body', 'POST /b ', 'GET /last '])
      expect([statuses(heard), heard.includes('h2c')]).toEqual([['200', '200', '200'], false])
    })
  }

  test('a thousand of them on one connection leave nothing behind', async () => {
    const warnings: string[] = []
    const onWarning = (warning: Error): void => void warnings.push(warning.message)
    process.on('warning', onWarning)
    cleanups.push(() => process.off('warning', onWarning))
    const { port } = await site()
    const heard = await talk(open(port), h2c('/a').repeat(1_000), LAST)
    expect([statuses(heard).length, warnings]).toEqual([1_001, []])
  })

  test('answers keep their order', async () => {
    const held: (() => void)[] = []
    const { port } = await site({}, held)
    const talking = talk(open(port), 'GET /slow HTTP/1.1\r\nHost: x\r\n\r\n', h2c('/a'), LAST)
    await expect.poll(() => held.length).toBe(1)
    held[0]?.()
    expect((await talking).match(/(POST|GET) .*?(?=HTTP|$)/g)).toEqual(['GET /slow ', 'POST /a ', 'GET /last '])
  })

  test('is taken where it is known', async () => {
    const { port } = await site()
    expect(statuses(await talk(open(port), 'GET /taken HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'))).toEqual(['101'])
  })
})

describe('one port', () => {
  test('speaks HTTP with and without TLS, however the first bytes come', async () => {
    const { port } = await site({ secrets: certificate })
    expect(statuses(await talk(open(port), LAST))).toEqual(['200'])
    expect(statuses(await talk(secure(port), LAST))).toEqual(['200'])
    const slow = open(port)
    slow.setNoDelay(true)
    const talking = talk(slow, 'G')
    await new Promise((resolve) => setTimeout(resolve, 50))
    slow.write(LAST.slice(1))
    expect(statuses(await talking)).toEqual(['200'])
  })

  test('that speaks TLS alone says so to who does not', async () => {
    const { port } = await site({ secrets: certificate, plain: false })
    const heard = await talk(open(port), LAST)
    expect([statuses(heard), heard.includes('this port speaks TLS: write https://')]).toEqual([['400'], true])
    expect(statuses(await talk(secure(port), LAST))).toEqual(['200'])
  })

  test('new connections get a certificate that is set anew, old ones live on', async () => {
    const { port, web } = await site({ secrets: certificate })
    const old = secure(port)
    await once(old, 'secureConnect')
    const fresh = selfSignedCertificate(['127.0.0.1'])
    web.setSecrets(fresh)
    const [refused] = (await once(tls.connect({ port, host: '127.0.0.1', ca: certificate.cert }), 'error').catch((error: unknown) => [error])) as [Error]
    expect(refused.message).toContain('self-signed') // the old one is all that it knows
    const next = tls.connect({ port, host: '127.0.0.1', ca: fresh.cert })
    expect(statuses(await talk(next, LAST))).toEqual(['200'])
    expect(statuses(await talk(old, LAST))).toEqual(['200'])
  })

  test('more than a record before the first answer is no handshake', async () => {
    const { port } = await site({ secrets: certificate })
    expect(await talk(open(port), Buffer.concat([Buffer.from([0x16, 3, 1]), Buffer.alloc(60_000)]))).toBe('')
  })
})

test('of one connection 16 requests may wait for their answers; one more ends it, and nothing of it waits', async () => {
  const gate = new Gate()
  const here = await site({ gate })
  const get = 'GET /x HTTP/1.1\r\nHost: x\r\n\r\n'
  const answers = await talk(net.connect(here.port, '127.0.0.1'), get.repeat(15), get.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'))
  expect(answers.match(/HTTP\/1\.1 200/g)).toHaveLength(16)
  const crowd = net.connect(here.port, '127.0.0.1').on('error', () => undefined)
  cleanups.push(() => crowd.destroy())
  let heard = 0
  crowd.on('data', (bytes: Buffer) => (heard += bytes.length))
  crowd.write(get.repeat(2_000))
  await new Promise((resolve) => crowd.once('close', resolve))
  expect(heard).toBe(0)
  expect(gate.size).toBeLessThanOrEqual(16)
  await expect.poll(() => gate.size, { timeout: 30_000 }).toBe(0)
})

test('a TLS handshake counts as one until it is complete, and no longer', async () => {
  const here = await site({ secrets: certificate })
  const begun = net.connect(here.port, '127.0.0.1').on('error', () => undefined)
  cleanups.push(() => begun.destroy())
  begun.resume().write(Buffer.from('16030100c8010000c403', 'hex'))
  await expect.poll(() => here.web.handshakes).toBe(1)
  const done = tls.connect({ port: here.port, host: '127.0.0.1', rejectUnauthorized: false }).on('error', () => undefined)
  cleanups.push(() => done.destroy())
  await once(done, 'secureConnect')
  begun.destroy()
  await expect.poll(() => here.web.handshakes).toBe(0)
  expect(done.destroyed).toBe(false)
})
