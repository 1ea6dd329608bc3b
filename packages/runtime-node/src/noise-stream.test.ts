import { Duplex } from 'node:stream'
import { NoiseInitiator, NoiseResponder } from '@meshwright/control-protocol'
import { concatBytes, instant } from '@meshwright/core'
import { MachinePrivateKey, nobleProvider } from '@meshwright/crypto'
import { expect, test } from 'vitest'
import { NoiseStream } from './noise-stream.ts'
import { systemRandom } from './random.ts'

/** Both ends of a channel, their handshake done. */
function channels(): { readonly initiator: NoiseInitiator; readonly responder: NoiseResponder } {
  const serverKey = MachinePrivateKey.generate(systemRandom)
  const common = { provider: nobleProvider, random: systemRandom }
  const initiator = new NoiseInitiator({ ...common, machineKey: MachinePrivateKey.generate(systemRandom), serverKey: serverKey.publicKey(), version: 142 })
  const responder = new NoiseResponder({ ...common, machineKey: serverKey })
  responder.handleInput(NOW, { type: 'initiation', bytes: initiator.initiation })
  for (let output = responder.pollOutput(); output !== undefined; output = responder.pollOutput()) {
    if (output.type === 'transmit') initiator.handleInput(NOW, { type: 'received', bytes: output.bytes })
  }
  while (initiator.pollOutput() !== undefined);
  return { initiator, responder }
}

const NOW = instant(0)

test('a reader that writes while it reads is never given the next record inside that reading', async () => {
  const { initiator, responder } = channels()
  const records: Uint8Array[] = []
  for (const text of ['one', 'two', 'three']) {
    initiator.send(NOW, Buffer.from(text))
    for (let output = initiator.pollOutput(); output !== undefined; output = initiator.pollOutput()) if (output.type === 'transmit') records.push(output.bytes)
  }

  const written: Buffer[] = []
  const raw = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => {
      written.push(chunk)
      done()
    },
  })
  const stream = new NoiseStream(raw, responder)
  const seen: string[] = []
  let depth = 0
  let deepest = 0
  stream.on('data', (bytes: Buffer) => {
    depth += 1
    deepest = Math.max(deepest, depth)
    seen.push(bytes.toString())
    stream.write(`answer to ${bytes.toString()}`)
    depth -= 1
  })
  stream.begin(new Uint8Array(0))
  raw.push(concatBytes(...records)) // all in one segment
  await expect.poll(() => seen, { timeout: 30_000 }).toEqual(['one', 'two', 'three'])
  await expect.poll(() => written.length, { timeout: 30_000 }).toBe(3)
  expect(deepest).toBe(1)
})

test('what is written together goes out as one record in one write', async () => {
  const { initiator, responder } = channels()
  const written: Buffer[] = []
  const raw = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => {
      written.push(chunk)
      done()
    },
  })
  const stream = new NoiseStream(raw, responder)
  stream.cork()
  for (const text of ['head', ' and ', 'data']) stream.write(text)
  stream.uncork()
  await expect.poll(() => written.length, { timeout: 30_000 }).toBe(1)
  initiator.handleInput(NOW, { type: 'received', bytes: new Uint8Array(written[0] ?? []) })
  expect(Buffer.from((initiator.pollOutput() as { readonly bytes: Uint8Array }).bytes).toString()).toBe('head and data')
})
