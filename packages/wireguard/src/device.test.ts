import { expect, test } from 'vitest'
import { instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { drain, SeededRandom } from '@meshwright/testkit'
import { WireGuardDevice, type WireGuardPath } from './index.ts'

test('two devices shake hands and carry a packet', () => {
  const random = new SeededRandom(1)
  const keys = [NodePrivateKey.generate(random.bytes), NodePrivateKey.generate(random.bytes)] as const
  const [a, b] = keys.map((privateKey) => new WireGuardDevice({ random: random.bytes, wallClock: () => 1_700_000_000_000, privateKey })) as [WireGuardDevice, WireGuardDevice]
  const path: WireGuardPath = { id: 'wire', cookieBytes: Uint8Array.of(1, 2, 3, 4, 5, 6) }
  const now = instant(1_000)
  a.setPeer(now, { publicKey: keys[1].publicKey(), path })
  b.setPeer(now, { publicKey: keys[0].publicKey() })
  const packet = Uint8Array.of(0x45, 0, 0, 21, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 7)
  a.handleInput(now, { type: 'packet', peer: keys[1].publicKey(), bytes: packet })
  const delivered: Uint8Array[] = []
  for (let round = 0; round < 4; round += 1) {
    for (const [from, to] of [[a, b], [b, a]] as const) {
      for (const output of drain(from)) {
        if (output.type === 'transmit') to.handleInput(now, { type: 'datagram', bytes: output.bytes, from: path })
        if (output.type === 'packet') delivered.push(output.bytes)
      }
    }
  }
  expect(delivered).toEqual([packet])
})
