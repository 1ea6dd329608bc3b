import { expect, test } from 'vitest'
import { prefsFromFlags } from './up.ts'

const EXIT = ['0.0.0.0/0', '::/0']
const SUBNET = '10.1.0.0/16'
const routes = (values: Parameters<typeof prefsFromFlags>[0], before: readonly string[], reset: boolean = false): unknown => prefsFromFlags(values, reset, { AdvertiseRoutes: before })['AdvertiseRoutes']

test('offered routes and the offer of an exit leave each other alone', () => {
  expect(routes({ 'advertise-exit-node': true }, [SUBNET])).toEqual([SUBNET, ...EXIT])
  expect(routes({ 'advertise-exit-node': false }, [SUBNET, ...EXIT])).toEqual([SUBNET])
  expect(routes({ 'advertise-routes': '10.2.0.0/16' }, [SUBNET, ...EXIT])).toEqual(['10.2.0.0/16', ...EXIT])
  expect(routes({ 'advertise-routes': '', 'advertise-exit-node': true }, [SUBNET])).toEqual(EXIT)
  expect(routes({ 'advertise-routes': '0.0.0.0/0,::/0', 'advertise-exit-node': false }, [])).toEqual(EXIT)
  expect(routes({ 'shields-up': true }, [SUBNET])).toBeUndefined()
  expect(routes({}, [SUBNET, ...EXIT], true)).toEqual([])
})

test('masquerading is a no in the words of the socket', () => {
  expect(prefsFromFlags({ 'snat-subnet-routes': false }, false, {})).toEqual({ NoSNAT: true, NoSNATSet: true })
  expect(prefsFromFlags({ 'exit-node-allow-lan-access': true }, false, {})).toEqual({ ExitNodeAllowLANAccess: true, ExitNodeAllowLANAccessSet: true })
})
