import { parseIp } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { openUdp } from './udp.ts'

test('a port that is none, as a relay map of somebody else may name, is a drop and no exception', async () => {
  const ip = parseIp('127.0.0.1') ?? expect.fail('address')
  const socket = await openUdp({ ipv6: false, onDatagram: () => undefined })
  for (const port of [0, -1, 65_536, 99_999, Number.NaN]) expect(socket.send({ ip, port }, Buffer.from('x'))).toBe(false)
  expect(socket.stats()).toEqual({ datagramsIn: 0, datagramsOut: 0, dropped: 5 })
  await socket.close()
})
