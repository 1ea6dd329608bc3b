import http from 'node:http'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import { ControlClient, type ControlClientOutput } from '@meshwright/control-client'
import { encodeJson, encodeMapChunk, type MapResponse, type RegisterResponse } from '@meshwright/control-protocol'
import { instant, isMeshwrightError } from '@meshwright/core'
import { MachinePrivateKey } from '@meshwright/crypto'
import { afterEach, expect, test } from 'vitest'
import { acceptControl, type AcceptedControl } from './control-accept.ts'
import { type ControlConnection, ControlTransport, dialControl, fetchControlKey } from './control-dial.ts'
import { selfSignedCertificate } from './derp-certificate.ts'
import { drive } from './drive.ts'
import { type Outside, systemOutside } from './outside.ts'
import { systemRandom } from './random.ts'

const serverKey = MachinePrivateKey.generate(systemRandom)
const cleanups: (() => void)[] = []

afterEach(() => {
  for (const cleanup of cleanups.splice(0)) cleanup()
})

// A control server of a few lines: everything that `onControl` does not answer is 404.
async function serve(onControl: (control: AcceptedControl) => void): Promise<string> {
  const server = http.createServer((request, response) => {
    if (!request.url?.startsWith('/key?v=')) return void response.writeHead(404).end('no such thing')
    response.end(JSON.stringify({ legacyPublicKey: `mkey:${'0'.repeat(64)}`, publicKey: serverKey.publicKey().text }))
  })
  server.on('upgrade', (request, socket, head) => {
    acceptControl(request, socket, head, { machineKey: serverKey, random: systemRandom }).then((control) => {
      cleanups.push(() => control.session.destroy())
      onControl(control)
    }, () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

test('a request and its body pass through the channel both ways, with the machine key and version of the client', async () => {
  const big = new Uint8Array(300_000).map((_, i) => i % 251)
  let control: AcceptedControl | undefined
  const url = await serve((accepted) => {
    control = accepted
    accepted.session.on('stream', (stream, headers) => {
      const parts: Buffer[] = []
      stream.on('data', (part: Buffer) => parts.push(part))
      stream.on('end', () => {
        stream.respond({ ':status': 200, 'x-path': headers[':path'] })
        stream.end(Buffer.concat(parts))
      })
    })
  })
  const machineKey = MachinePrivateKey.generate(systemRandom)
  const connection = await dialControl({ url, machineKey, random: systemRandom, version: 123 })
  cleanups.push(() => connection.close())
  const echoed = await new Promise<Uint8Array>((resolve, reject) => {
    const parts: Uint8Array[] = []
    connection.request(
      { method: 'POST', path: '/machine/echo', headers: {}, body: big },
      { response: (status) => expect(status).toBe(200), chunk: (bytes) => parts.push(bytes), end: () => resolve(Buffer.concat(parts)), failed: (message) => reject(new Error(message)) },
    )
  })
  expect(Buffer.compare(Buffer.from(echoed), Buffer.from(big))).toBe(0)
  expect(control?.machineKey.text).toBe(machineKey.publicKey().text)
  expect(control?.version).toBe(123)
  expect(connection.early?.nodeKeyChallenge).toBe(control?.challenge?.publicKey().text)
})

test('a wrong server key, another web server, a closed port and an address with a path are told apart', async () => {
  const url = await serve(() => {})
  const options = { machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom }
  const code = (attempt: Promise<unknown>): Promise<unknown> => attempt.then(() => 'none', (error: unknown) => (isMeshwrightError(error) ? error.code : error))
  expect(await code(dialControl({ ...options, url, serverKey: MachinePrivateKey.generate(systemRandom).publicKey() }))).toBe('RUNTIME_CONTROL_CHANNEL')
  expect(await code(fetchControlKey({ url: 'http://127.0.0.1:1' }))).toBe('RUNTIME_CONTROL_UNREACHABLE')
  expect(await code(fetchControlKey({ url: `${url}/path` }))).toBe('RUNTIME_CONTROL_URL')
  const other = http.createServer((_request, response) => void response.writeHead(404).end('nothing here'))
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => other.close())
  const otherUrl = `http://127.0.0.1:${(other.address() as AddressInfo).port}`
  expect(await code(fetchControlKey({ url: otherUrl }))).toBe('RUNTIME_CONTROL_KEY')
  expect(await code(dialControl({ ...options, url: otherUrl, serverKey: serverKey.publicKey() }))).toBe('RUNTIME_CONTROL_UPGRADE')
})

test.each(['the way of the system', 'a way of its own'])('over https, by %s, the certificate of the server must be trusted', async (way) => {
  let opened = 0
  const outside: Outside = {
    ...systemOutside,
    connect: (host, port) => {
      opened += 1
      return systemOutside.connect(host, port)
    },
  }
  const { cert, key } = selfSignedCertificate(['127.0.0.1'])
  const server = https.createServer({ cert, key }, (_request, response) => void response.end(JSON.stringify({ publicKey: serverKey.publicKey().text })))
  server.on('upgrade', (request, socket, head) => void acceptControl(request, socket, head, { machineKey: serverKey, random: systemRandom }).then((control) => {
    cleanups.push(() => control.session.destroy())
    control.session.on('stream', (stream) => {
      stream.respond({ ':status': 204 }, { endStream: true })
    })
  }))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => server.close())
  const options = { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom, ...(way === 'a way of its own' && { outside }) }
  await expect(dialControl(options)).rejects.toThrow('self-signed certificate')
  const connection = await dialControl({ ...options, ca: cert })
  cleanups.push(() => connection.close())
  expect(connection.localAddress).toBe('127.0.0.1') // by which a node knows whether the connection hangs on an address that is gone
  expect(await answer(connection)).toBe(204)
  expect(opened > 0).toBe(way === 'a way of its own')
})

test('the time limit of dialling ends with the dialling: a connection lives on after it', async () => {
  const url = await serve((control) => {
    control.session.on('stream', (stream) => {
      stream.respond({ ':status': 204 }, { endStream: true })
    })
  })
  const dial = (timeoutMs: number): Promise<ControlConnection> => dialControl({ url, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom, timeoutMs })
  // A busy computer needs a longer limit, so that the dial comes about at all.
  let limitMs = 200
  const connection = await dial(limitMs).catch(() => dial((limitMs = 5_000)))
  cleanups.push(() => connection.close())
  await new Promise((resolve) => setTimeout(resolve, limitMs + 200))
  expect(connection.usable).toBe(true)
  expect(await answer(connection)).toBe(204)
})

test('a connection whose far end has gone silent is given up, and the next request makes a new one', async () => {
  const url = await serve((control) => {
    control.session.on('stream', (stream) => {
      stream.respond({ ':status': 204 }, { endStream: true })
    })
  })
  const port = Number(new URL(url).port)
  let frozen = false
  const proxy = net.createServer((near) => {
    const far = net.connect(port, '127.0.0.1')
    near.on('data', (bytes) => void (frozen || far.write(bytes)))
    far.on('data', (bytes) => void (frozen || near.write(bytes)))
    for (const end of [near, far]) end.on('error', () => {}).on('close', () => [near, far].forEach((one) => one.destroy()))
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => proxy.close())
  const connection = await dialControl({ url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom, pingEveryMs: 50 })
  cleanups.push(() => connection.close())
  expect(await answer(connection)).toBe(204)
  expect(connection.usable).toBe(true)
  frozen = true
  await expect(answer(connection)).rejects.toThrow()
  expect(connection.usable).toBe(false)
})

function answer(connection: ControlConnection): Promise<number> {
  return new Promise((resolve, reject) => {
    connection.request({ method: 'GET', path: '/', headers: {}, body: undefined }, { response: resolve, chunk: () => {}, end: () => {}, failed: (message) => reject(new Error(message)) })
  })
}

test('a transport that is closed while it dials gives the dial up at once, and tells nothing', async () => {
  const sockets: net.Socket[] = []
  const silent = net.createServer((socket) => sockets.push(socket.on('error', () => undefined)))
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}` // listening on TCP
  const inputs: unknown[] = []
  const transport = new ControlTransport({ url, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom }, (input) => inputs.push(input))
  transport.perform({ type: 'request', id: 1, method: 'POST', path: '/machine/map', headers: {}, body: new Uint8Array(0), stream: false })
  await expect.poll(() => sockets.length, { timeout: 30_000 }).toBe(1)
  const gone = new Promise((resolve) => sockets[0]?.once('close', resolve))
  sockets[0]?.resume()
  transport.close()
  await gone
  expect(inputs).toEqual([])
  silent.close()
})

test('a connection that is given up while it is dialled keeps nobody waiting: the next request dials anew', async () => {
  const silent = net.createServer((socket) => cleanups.push(() => socket.destroy()))
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => silent.close())
  const { port } = silent.address() as AddressInfo
  const url = await serve((accepted) => void accepted.session.on('stream', (stream) => stream.respond({ ':status': 204 }, { endStream: true })))
  // The first way out leads nowhere, as one that has just gone does.
  let ways = 0
  const outside: Outside = { ...systemOutside, connect: (host, to) => systemOutside.connect(host, (ways += 1) === 1 ? port : to) }
  const told: (readonly [number, string])[] = []
  let done: () => void = () => undefined
  const ended = new Promise<void>((resolve) => (done = resolve))
  const transport = new ControlTransport({ url, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom, outside }, (input) => {
    told.push([input.id, input.type])
    if (input.id === 2 && input.type === 'end') done()
  })
  cleanups.push(() => transport.close())
  const request = (id: number): void => transport.perform({ type: 'request', id, method: 'HEAD', path: '/x', headers: {}, body: undefined, stream: false })
  request(1)
  await new Promise((resolve) => silent.once('connection', resolve))
  transport.perform({ type: 'cancel', id: 1 })
  transport.reset()
  request(2)
  await ended
  expect(told).toEqual([[2, 'response'], [2, 'end']])
  expect(transport.localAddress).toBe('127.0.0.1')
})

test('an upgrade without a handshake is answered with 400 and a reason', async () => {
  const url = await serve(() => {})
  const status = await new Promise<number | undefined>((resolve) => {
    http.request(`${url}/ts2021`, { method: 'POST', headers: { Upgrade: 'tailscale-control-protocol', Connection: 'upgrade' } }, (response) => resolve(response.resume().statusCode)).end()
  })
  expect(status).toBe(400)
})

test('a control client registers, gets its map and follows a change over a real connection', async () => {
  const url = await serve((control) => {
    control.session.on('stream', (stream, headers) => {
      stream.on('error', () => {})
      const parts: Buffer[] = []
      stream.on('data', (part: Buffer) => parts.push(part))
      stream.on('end', () => {
        const body = JSON.parse(Buffer.concat(parts).toString()) as { NodeKey: string; Stream?: boolean }
        stream.respond({ ':status': 200 })
        if (headers[':path'] === '/machine/register') {
          const answer: RegisterResponse = { NodeKeyExpired: false, MachineAuthorized: true, AuthURL: '', Error: '', User: { ID: 1, DisplayName: 'Alice' } }
          return void stream.end(encodeJson(answer))
        }
        if (body.Stream !== true) return void stream.end()
        const first: MapResponse = { Node: { ID: 7, StableID: '7', Name: 'a.example.com.', User: 1, Key: body.NodeKey, Addresses: ['100.64.0.7/32'], MachineAuthorized: true } }
        stream.write(encodeMapChunk(encodeJson(first), 'zstd'))
        setTimeout(() => stream.write(encodeMapChunk(encodeJson({ Domain: 'example.com' }), 'none')), 20)
      })
    })
  })
  const client = new ControlClient({ random: systemRandom, wallClock: Date.now, hostinfo: { Hostname: 'a' } })
  const seen: ControlClientOutput[] = []
  await new Promise<void>((resolve) => {
    const transport = new ControlTransport({ url, machineKey: client.machineKey, random: systemRandom }, (input) => driver.feed(input))
    const driver = drive(client, () => instant(performance.now()), (output) => {
      if (output.type === 'request' || output.type === 'cancel') transport.perform(output)
      else seen.push(output)
      if (output.type === 'netmap' && output.map.domain === 'example.com') resolve()
    })
    cleanups.push(() => driver.stop(), () => transport.close())
    driver.act((at) => client.login(at, { authKey: 'k' }))
  })
  expect(seen.map((output) => output.type).filter((type) => type !== 'told')).toEqual(['saveState', 'saveState', 'loginFinished', 'netmap', 'polling', 'netmap'])
  expect(client.status()).toMatchObject({ state: 'running', polling: true })
})

test.each([0, 50])('a connection that is closed in the very turn in which its ping is due ends quietly (%i ms old)', async (ageMs) => {
  const url = await serve(() => {})
  const connection = await dialControl({ url, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom, pingEveryMs: 5 })
  const thrown: unknown[] = []
  const onThrown = (error: unknown): void => void thrown.push(error)
  process.on('uncaughtException', onThrown)
  cleanups.push(() => process.off('uncaughtException', onThrown))
  if (ageMs > 0) await new Promise((resolve) => setTimeout(resolve, ageMs))
  connection.close()
  for (const until = performance.now() + 20; performance.now() < until; ); // the turn takes longer than the ping waits
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(thrown).toEqual([])
  expect(connection.usable).toBe(false)
})

test('the status comes before the body, also when both arrive at once', async () => {
  const url = await serve(({ session }) => {
    session.on('stream', (stream) => {
      stream.respond({ ':status': 404 })
      stream.end('node not found')
    })
  })
  const connection = await dialControl({ url, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom })
  cleanups.push(() => connection.close())
  const told = await new Promise<string[]>((resolve) => {
    const order: string[] = []
    const finish = (what: string): void => resolve([...order, what])
    connection.request({ method: 'POST', path: '/', headers: {}, body: Buffer.from('{}') }, { response: (status) => order.push(`response ${status}`), chunk: (bytes) => order.push(`chunk ${bytes.length}`), end: () => finish('end'), failed: finish })
  })
  expect(told).toEqual(['response 404', 'chunk 14', 'end'])
})

test('a server without a certificate that shows another key in the middle of a run is told nothing', async () => {
  let asked = 0
  let shown = serverKey
  const server = http.createServer((_request, response) => response.end(JSON.stringify({ legacyPublicKey: `mkey:${'0'.repeat(64)}`, publicKey: shown.publicKey().text })))
  server.on('upgrade', (request, socket, head) => {
    acceptControl(request, socket, head, { machineKey: shown, random: systemRandom }).then(({ session }) => {
      cleanups.push(() => session.destroy())
      session.on('stream', (stream) => {
        asked += 1
        stream.respond({ ':status': 200 })
        stream.end()
      })
    }, () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => server.close())
  const inputs: { readonly type: string; readonly message?: string }[] = []
  const transport = new ControlTransport({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, machineKey: MachinePrivateKey.generate(systemRandom), random: systemRandom }, (input) => inputs.push(input))
  cleanups.push(() => transport.close())
  const ask = (id: number): void => transport.perform({ type: 'request', id, method: 'POST', path: '/machine/map', headers: {}, body: new Uint8Array(0), stream: false })
  ask(1)
  await expect.poll(() => inputs.map(({ type }) => type), { timeout: 30_000 }).toEqual(['response', 'end'])
  shown = MachinePrivateKey.generate(systemRandom)
  transport.reset()
  ask(2)
  await expect.poll(() => inputs.at(-1)?.message, { timeout: 30_000 }).toMatch(/shows another key than before .* somebody stands between/)
  shown = serverKey
  ask(3)
  await expect.poll(() => inputs.slice(-2).map(({ type }) => type), { timeout: 30_000 }).toEqual(['response', 'end'])
  expect(asked).toBe(2)
})
