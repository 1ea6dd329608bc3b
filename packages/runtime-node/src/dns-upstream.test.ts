import dgram from 'node:dgram'
import net, { type AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { type DnsUpstreamAnswer, DnsUpstreams } from './dns-upstream.ts'

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0)) close()
})

const query = Uint8Array.of(1, 2, 3)

function asking(): { readonly upstreams: DnsUpstreams; readonly answers: DnsUpstreamAnswer[]; next(): Promise<DnsUpstreamAnswer> } {
  const answers: DnsUpstreamAnswer[] = []
  let waiting: ((answer: DnsUpstreamAnswer) => void) | undefined
  const upstreams = new DnsUpstreams((answer) => {
    answers.push(answer)
    waiting?.(answer)
  })
  closers.push(() => upstreams.close())
  return { upstreams, answers, next: () => new Promise((resolve) => (waiting = resolve)) }
}

async function udpServer(): Promise<{ readonly address: string; readonly asked: Promise<void> }> {
  const socket = dgram.createSocket('udp4')
  let heard: () => void = () => undefined
  const asked = new Promise<void>((resolve) => (heard = resolve))
  socket.on('message', (bytes, from) => {
    heard()
    if (bytes[0] === 1) socket.send(Uint8Array.of(9, ...bytes), from.port)
  })
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve))
  closers.push(() => socket.close())
  return { address: `127.0.0.1:${socket.address().port}`, asked }
}

test('a server is asked by UDP and its answer told with who gave it', async () => {
  const { address } = await udpServer()
  const { upstreams, next } = asking()
  const answer = next()
  upstreams.ask(7, query, [address], 'udp')
  expect(await answer).toMatchObject({ token: 7, upstream: address, transport: 'udp', bytes: Buffer.from([9, 1, 2, 3]) })
})

test('by TCP the length goes before, and an answer in pieces is put together', async () => {
  const server = net.createServer((socket) => {
    socket.on('error', () => socket.destroy())
    socket.once('data', (bytes) => {
      socket.write(Uint8Array.of(0))
      setImmediate(() => socket.write(Uint8Array.of(4, 8, ...bytes.subarray(2))))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => server.close())
  const { upstreams, next } = asking()
  const answer = next()
  upstreams.ask(1, query, [`127.0.0.1:${(server.address() as AddressInfo).port}`], 'tcp') // listening on TCP
  expect((await answer).bytes).toEqual(Buffer.from([8, 1, 2, 3]))
})

test('a name or a URL is no server, and a closed port is told at once', async () => {
  const { upstreams, next } = asking()
  const refused = next()
  upstreams.ask(1, query, ['https://dns.example/dns-query'], 'udp')
  expect(await refused).toMatchObject({ upstream: 'https://dns.example/dns-query', bytes: undefined })
  const closed = next()
  upstreams.ask(2, query, ['127.0.0.1:1'], 'tcp')
  expect((await closed).bytes).toBeUndefined()
})

test('what is cancelled is not told any more', async () => {
  const { address, asked } = await udpServer()
  const { upstreams, answers, next } = asking()
  upstreams.ask(3, Uint8Array.of(2), [address], 'udp') // a question that is not answered
  await asked
  upstreams.cancel(3)
  const other = next()
  upstreams.ask(4, query, [address], 'udp')
  expect((await other).token).toBe(4)
  expect(answers.map((answer) => answer.token)).toEqual([4])
})

test('whatever a server sends behind a first answer is told too, sixteen datagrams at most, until nobody waits any more', async () => {
  const server = dgram.createSocket('udp4')
  server.on('message', (_bytes, from) => {
    for (let index = 0; index < 100; index += 1) server.send(Uint8Array.of(index), from.port)
  })
  await new Promise<void>((resolve) => server.bind(0, '127.0.0.1', resolve))
  closers.push(() => server.close())
  const { upstreams, answers } = asking()
  upstreams.ask(1, query, [`127.0.0.1:${server.address().port}`], 'udp')
  await expect.poll(() => answers.length, { timeout: 30_000 }).toBe(16)
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(answers.map(({ bytes }) => bytes?.[0])).toEqual(Array.from({ length: 16 }, (_, index) => index))
})

test('a server that no way leads to, and one at a port that is none, cannot be asked: that is told, and nothing else happens', async () => {
  for (const transport of ['udp', 'tcp'] as const) {
    // Datagrams to everybody are refused by the system at once, as all are while a computer has no network.
    for (const upstream of ['255.255.255.255', '127.0.0.1:0', '[::1]:0']) {
      const { upstreams, next } = asking()
      const told = next()
      upstreams.ask(1, query, [upstream], transport)
      expect(await told).toEqual({ token: 1, upstream, transport, bytes: undefined })
    }
  }
})
