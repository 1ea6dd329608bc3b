import { parseIp, type Endpoint } from '@meshwright/ip'
import { decodeBindingAnswer, encodeBindingRequest } from '@meshwright/nat-traversal'
import { expect, test } from 'vitest'
import { startStunService } from './stun-service.ts'
import { openUdp } from './udp.ts'

const loopback = parseIp('127.0.0.1')
if (loopback === undefined) throw new Error('address')

test('datagrams come as they were sent, with the address of the sender', async () => {
  const received: { text: string; from: Endpoint }[] = []
  let arrived = (): void => undefined
  const got = new Promise<void>((resolve) => (arrived = resolve))
  const a = await openUdp({
    ipv4: '127.0.0.1',
    onDatagram: (bytes, from) => {
      received.push({ text: Buffer.from(bytes).toString(), from })
      arrived()
    },
  })
  const b = await openUdp({ onDatagram: () => undefined })
  if (b.portIpv6 !== undefined) expect(b.portIpv6).toBe(b.portIpv4)
  expect(b.send({ ip: loopback, port: a.portIpv4 ?? 0 }, Buffer.from('x'))).toBe(true)
  await got
  expect(received).toEqual([{ text: 'x', from: { ip: loopback, port: b.portIpv4 } }])
  await Promise.all([a.close(), b.close()])
  expect(b.send({ ip: loopback, port: 9 }, Buffer.from('x'))).toBe(false)
  expect(b.stats()).toEqual({ datagramsIn: 0, datagramsOut: 1, dropped: 1 })
})

test('a family that is left out drops, and a taken port says so', async () => {
  const a = await openUdp({ ipv6: false, onDatagram: () => undefined })
  const six = parseIp('::1')
  expect(six && a.send({ ip: six, port: 9 }, Buffer.from('x'))).toBe(false)
  await expect(openUdp({ port: a.portIpv4 ?? 0, onDatagram: () => undefined })).rejects.toMatchObject({
    code: 'UDP_PORT_TAKEN',
    message: expect.stringContaining(`IPv4 UDP port ${a.portIpv4} is taken`) as string,
  })
  await a.close()
})

test('the STUN service tells a client its address, and is silent to others', async () => {
  const service = await startStunService({ port: 0, address: '127.0.0.1' })
  const answers: Uint8Array[] = []
  let arrived = (): void => undefined
  const got = new Promise<void>((resolve) => (arrived = resolve))
  const client = await openUdp({
    ipv6: false,
    onDatagram: (bytes) => {
      answers.push(bytes)
      arrived()
    },
  })
  const to = { ip: loopback, port: service.portIpv4 ?? 0 }
  client.send(to, Buffer.from('nonsense'))
  client.send(to, encodeBindingRequest(new Uint8Array(12).fill(1), 'other'))
  client.send(to, encodeBindingRequest(new Uint8Array(12).fill(2)))
  await got
  expect(decodeBindingAnswer(answers[0] ?? new Uint8Array(0))).toMatchObject({ endpoint: { ip: loopback, port: client.portIpv4 } })
  expect(service.stats()).toEqual({ answered: 1, ignored: 2, limited: 0 })
  await Promise.all([client.close(), service.close()])
})

test('the STUN service gives one address a thousand answers in a second, and others theirs meanwhile', async () => {
  const service = await startStunService({ port: 0, address: '127.0.0.1' })
  const client = await openUdp({ ipv6: false, onDatagram: () => undefined })
  let arrived = (): void => undefined
  const got = new Promise<void>((resolve) => (arrived = resolve))
  const other = await openUdp({ ipv4: '127.0.0.2', ipv6: false, onDatagram: () => arrived() })
  const to = { ip: loopback, port: service.portIpv4 ?? 0 }
  const question = encodeBindingRequest(new Uint8Array(12).fill(2))
  for (let i = 0; i < 1_000 && service.stats().limited === 0; i += 1) {
    for (let j = 0; j < 100; j += 1) client.send(to, question)
    await new Promise((resolve) => setImmediate(resolve))
  }
  expect(service.stats().limited).toBeGreaterThan(0)
  expect(service.stats().answered).toBeGreaterThanOrEqual(1_000)
  other.send(to, question)
  await got
  await Promise.all([client.close(), other.close(), service.close()])
})
