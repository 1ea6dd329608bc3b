import { expect, test } from 'vitest'
import type { DaemonClient, Json } from './client.ts'
import { prefsFromFlags, tellHindrances, waitUntilRunning } from './up.ts'

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

test('who waits for a node that does not get to run hears why, each thing once', async () => {
  const said: string[] = []
  const told: string[] = []
  const output = { err: (text: string) => void said.push(text) }
  const daemon = (status: Readonly<Record<string, unknown>>): Parameters<typeof tellHindrances>[0] => ({ call: () => Promise.resolve(status) })
  const starting = daemon({ BackendState: 'Starting', Health: ['The home relay (own) cannot be reached: no TLS'] })
  await tellHindrances(starting, output, told)
  await tellHindrances(starting, output, told)
  expect(said).toEqual(['The home relay (own) cannot be reached: no TLS\nStill trying; Ctrl-C ends the waiting.\n'])
  await tellHindrances(daemon({ BackendState: 'Running', Health: ['another'] }), output, told)
  await tellHindrances(daemon({ BackendState: 'NeedsLogin', Health: ['another'] }), output, told)
  await tellHindrances(daemon({ BackendState: 'Starting', Health: null }), output, told)
  await tellHindrances({ call: () => Promise.reject(new Error('gone')) }, output, told)
  expect(said).toHaveLength(1)
})

/** A daemon that says this, and then nothing more. */
const saying = (...notifies: readonly Json[]): Pick<DaemonClient, 'watch'> => ({
  watch: (_mask, take) => (notifies.some((notify) => take(notify)) ? Promise.resolve() : Promise.reject(new Error('waits for more'))),
})
const RUNNING = { State: 6 }

test('a node that runs already is not waited for, whether it was given a key that it does not need or came up by itself meanwhile', async () => {
  const waiting = { json: false, output: { out: () => undefined, err: () => undefined }, problems: [] }
  await expect(waitUntilRunning(saying(RUNNING), { ...waiting, anew: false })).resolves.toBeUndefined()
  await expect(waitUntilRunning(saying({ State: 2 }, RUNNING), { ...waiting, anew: false })).resolves.toBeUndefined()
  await expect(waitUntilRunning(saying(RUNNING), { ...waiting, anew: true })).rejects.toThrow('waits for more')
  await expect(waitUntilRunning(saying(RUNNING, RUNNING), { ...waiting, anew: true })).resolves.toBeUndefined()
})

test('a refused login ends the waiting for a new one', async () => {
  const waiting = { json: false, output: { out: () => undefined, err: () => undefined }, problems: [], anew: true }
  await expect(waitUntilRunning(saying({ ...RUNNING, ErrMessage: 'of an earlier login' }, { ErrMessage: 'invalid pre auth key' }), waiting)).rejects.toThrow('backend error: invalid pre auth key')
})
