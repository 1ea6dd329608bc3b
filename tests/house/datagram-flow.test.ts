import { spawn } from 'node:child_process'
import dgram from 'node:dgram'
import readline from 'node:readline'
import { afterEach, expect, test } from 'vitest'
import { freePort } from '../../examples/demo/src/free-port.ts'
import { DATAGRAM_SCRIPT } from '../interop/dataplane-ends.ts'

// The flows that count datagrams on every lane must neither miss what arrived late nor overlook what was lost.
const ends: (() => void)[] = []
afterEach(() => {
  for (const end of ends.splice(0)) end()
})

/** The next line of an end of the script. */
function started(...settings: readonly (string | number)[]): Promise<string> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', DATAGRAM_SCRIPT, JSON.stringify(settings)], { stdio: ['ignore', 'pipe', 'inherit'] })
  ends.push(() => void child.kill('SIGKILL'))
  return new Promise((resolve) => readline.createInterface({ input: child.stdout }).once('line', resolve))
}

async function bound(): Promise<dgram.Socket> {
  const socket = dgram.createSocket({ type: 'udp4', recvBufferSize: 4 << 20 })
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve))
  return socket
}

/** What the sender says of 1,000 datagrams over a way that takes some milliseconds each way. @param each what becomes of one, by the order of them */
async function sent(each: (datagram: Buffer, i: number) => Buffer | undefined): Promise<unknown> {
  const [port, way] = [await freePort(), await bound()]
  const passing = new Set<NodeJS.Timeout>()
  ends.push(() => {
    for (const timer of passing) clearTimeout(timer)
    way.close()
  })
  expect(await started('receive', '127.0.0.1', port, 1_000, 64)).toBe('"ready"')
  let [sender, count] = [0, 0]
  way.on('message', (datagram, from) => {
    if (from.port !== port) sender = from.port
    const to = from.port === port ? sender : port
    const passed = datagram.length === 64 ? each(datagram, (count += 1)) : datagram
    if (passed === undefined) return
    const timer = setTimeout(() => {
      passing.delete(timer)
      way.send(passed, to, '127.0.0.1')
    }, 4)
    passing.add(timer)
  })
  return JSON.parse(await started('send', '127.0.0.1', way.address().port, 1_000, 64))
}

test('an answer that comes late is not taken for one to a later question', async () => {
  expect(await sent((datagram) => datagram)).toEqual({ whole: 1_000, changed: 0, again: 0, refused: 0 })
})

test('a datagram that is lost and one that is changed are counted', async () => {
  const result = await sent((datagram, i) => (i === 500 ? undefined : i === 990 ? Buffer.concat([datagram.subarray(0, 60), Buffer.alloc(4, 0x5a)]) : datagram))
  expect(result).toEqual({ whole: 998, changed: 1, again: 0, refused: 0 })
})

test('one that comes twice does not stand for one that is lost', async () => {
  let last = Buffer.alloc(0)
  const result = await sent((datagram, i) => {
    const passed = i === 700 ? last : datagram
    last = Buffer.from(datagram)
    return passed
  })
  expect(result).toEqual({ whole: 999, changed: 0, again: 1, refused: 0 })
})
