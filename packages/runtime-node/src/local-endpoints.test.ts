import { isLinkLocal, isLoopback, isTailnetAddress } from '@meshwright/ip'
import { expect, test } from 'vitest'
import { localEndpoints } from './local-endpoints.ts'

const PORTS = { ipv4: 41_641, ipv6: 41_642 }

test('loopback is named only where that is asked for', () => {
  expect(localEndpoints(PORTS, false).filter(({ ip }) => isLoopback(ip))).toEqual([])
  expect(localEndpoints(PORTS, true).some(({ ip }) => isLoopback(ip))).toBe(true)
})

test('every endpoint has the port of its family, none is link-local or of a mesh', () => {
  for (const { ip, port } of localEndpoints(PORTS, true)) {
    expect(port).toBe(ip.family === 4 ? PORTS.ipv4 : PORTS.ipv6)
    expect(isLinkLocal(ip) || isTailnetAddress(ip)).toBe(false)
  }
})

test('a family without a socket has no endpoints', () => {
  expect(localEndpoints({ ipv4: undefined, ipv6: undefined }, true)).toEqual([])
  expect(localEndpoints({ ipv4: 1, ipv6: undefined }, true).every(({ ip }) => ip.family === 4)).toBe(true)
})
