import { formatEndpoint } from '@meshwright/ip'
import { expect, test } from 'vitest'
import type { Interfaces } from './local-endpoints.ts'
import { bestDefaultRoutes, defaultRoutes, networkChange, type NetworkStanding, NetworkWatch } from './network-watch.ts'

const HEAD = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n'
const route = (device: string, gateway: string, metric: number, flags: string = '0003'): string => `${device}\t00000000\t${gateway}\t${flags}\t0\t0\t${metric}\t00000000\t0\t0\t0\n`
const zeros = '0'.repeat(32)
const route6 = (device: string, gateway: string, metric: string, flags: string = '00000003'): string => `${zeros} 00 ${zeros} 00 ${gateway} ${metric} 00000001 00000000 ${flags} ${device.padStart(8)}\n`
const ROUTER = 'fe800000000000000000000000000001'

const at = (routes: string | undefined, ...addresses: readonly string[]): NetworkStanding => ({ routes, addresses })
const HOME = 'eth0>010200C0 '

test('addresses of containers and virtual machines that come and go cost no connection', () => {
  const alone = at(HOME, '192.0.2.2')
  const withBridge = at(HOME, '192.0.2.2', '172.17.0.1')
  expect(networkChange(alone, withBridge, ['192.0.2.2'])).toBe('addresses')
  expect(networkChange(withBridge, alone, ['192.0.2.2'])).toBe('addresses')
  expect(networkChange(alone, alone, ['192.0.2.2'])).toBe('none')
})

test('connections are made anew when the address is gone that they were made from', () => {
  expect(networkChange(at(HOME, '192.0.2.2', '172.17.0.1'), at(HOME, '192.0.2.2'), ['172.17.0.1'])).toBe('connections')
  expect(networkChange(at(HOME, '192.0.2.2'), at(HOME, '192.0.2.3'), ['192.0.2.2'])).toBe('connections')
  // ... and when there are none at all: it may help, and costs nothing.
  expect(networkChange(at(HOME), at(HOME, '192.0.2.3'), [])).toBe('connections')
})

test('connections are made anew when the way out is another one, though every address stays', () => {
  expect(networkChange(at(HOME, '192.0.2.2', '198.51.100.2'), at('wlan0>016433C6 ', '192.0.2.2', '198.51.100.2'), ['192.0.2.2'])).toBe('connections')
})

test('where the system does not show its routes, each change of addresses counts', () => {
  expect(networkChange(at(undefined, '192.0.2.2'), at(undefined, '192.0.2.2', '172.17.0.1'), ['192.0.2.2'])).toBe('connections')
  expect(networkChange(at(undefined, '192.0.2.2'), at(undefined, '192.0.2.2'), ['192.0.2.2'])).toBe('none')
})

test('the best default route of each family counts; those of the own device, of loopback, that reject or are down do not', () => {
  const four = HEAD + route('eth1', '010200C0', 200) + route('eth0', '010200C0', 100) + `eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n`
  const six = route6('lo', zeros, 'ffffffff', '00200200') + route6('eth0', ROUTER, '00000400')
  expect(bestDefaultRoutes(four, six, undefined)).toBe(`eth0>010200C0 eth0>${ROUTER}`)
  expect(bestDefaultRoutes(four + route('mesh0', '00000000', 0, '0001'), six + route6('mesh0', zeros, '00000001'), 'mesh0')).toBe(`eth0>010200C0 eth0>${ROUTER}`)
  expect(bestDefaultRoutes(four + route('eth2', '010200C0', 1, '0002') + route('eth3', '010200C0', 1, '0203'), six, undefined)).toBe(`eth0>010200C0 eth0>${ROUTER}`)
  expect(bestDefaultRoutes(HEAD, '', undefined)).toBe(' ')
})

test('two routers of one network, in whatever order the kernel has them now, are the same way out', () => {
  const other = 'fe800000000000000000000000000002'
  const [a, b] = [route6('eth0', ROUTER, '00000400'), route6('eth0', other, '00000400')]
  expect(bestDefaultRoutes(HEAD, a + b, undefined)).toBe(bestDefaultRoutes(HEAD, b + a, undefined))
})

test.runIf(process.platform === 'linux')('on Linux the default routes of this computer can be read', () => {
  expect(defaultRoutes(undefined)).toMatch(/^\S* \S*$/)
})

/** A watch over interfaces that the test sets, and what it has told. */
function watching(): { readonly watch: NetworkWatch; readonly told: string[]; set(interfaces: () => Interfaces): void } {
  const told: string[] = []
  let interfaces = (): Interfaces => ({ eth0: [{ address: '192.0.2.2' }] })
  const watch = new NetworkWatch({
    ports: () => ({ ipv4: 41_641, ipv6: 41_641 }),
    allowLoopback: false,
    device: () => undefined,
    interfaces: () => interfaces(),
    inUse: () => ['192.0.2.2'],
    onEndpoints: (endpoints) => told.push(endpoints.map(formatEndpoint).join()),
    onConnections: () => told.push('connections'),
  })
  return { watch, told, set: (given) => (interfaces = given) }
}

test('a system that cannot say which interfaces it has, since no descriptor is left, changes nothing until it can again', () => {
  const { watch, told, set } = watching()
  watch.look()
  set(() => {
    throw new Error('uv_interface_addresses returned EMFILE')
  })
  watch.look()
  expect(told).toEqual(['192.0.2.2:41641'])
  expect(watch.endpoints.map(formatEndpoint)).toEqual(['192.0.2.2:41641'])
  set(() => ({ eth0: [{ address: '192.0.2.3' }] }))
  watch.look()
  expect(told).toEqual(['192.0.2.2:41641', '192.0.2.3:41641', 'connections'])
})

test('a system that cannot say it at the very start is asked again', () => {
  const { watch, told, set } = watching()
  set(() => {
    throw new Error('uv_interface_addresses returned EMFILE')
  })
  watch.look()
  expect(told).toEqual([])
  set(() => ({ eth0: [{ address: '192.0.2.3' }] }))
  watch.look()
  expect(told).toEqual(['192.0.2.3:41641'])
})
