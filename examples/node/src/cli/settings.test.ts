import { expect, test } from 'vitest'
import { describeFlags, parseFlags } from '../go-flags.ts'
import { LOGIN_ONLY, RARE_SETTINGS, rarePrefs, SET_ONLY } from './settings.ts'

const ALL = { ...RARE_SETTINGS, ...SET_ONLY, ...LOGIN_ONLY }
const REFUSED = Object.entries(ALL).filter(([, spec]) => spec.refused !== undefined)

test.each(REFUSED)('--%s is refused with a plain reason, and may be switched off', (name, spec) => {
  const on = spec.type === 'bool' ? `--${name}` : `--${name}=x`
  expect(() => parseFlags([on], ALL)).toThrow(`--${name} is not offered: ${spec.refused ?? ''}`)
  expect(parseFlags([spec.type === 'bool' ? `--${name}=false` : `--${name}=`], ALL).args).toEqual([])
  expect(describeFlags({ [name]: spec })).toContain('not offered')
})

test('what is kept for other programs has the words of the socket', () => {
  expect(rarePrefs({ 'netfilter-mode': 'off', operator: 'alice', 'stateful-filtering': true, nickname: 'work', 'relay-server-static-endpoints': '192.0.2.1:1,192.0.2.2:2' }, false, {})).toEqual({
    NetfilterMode: 0,
    NetfilterModeSet: true,
    OperatorUser: 'alice',
    OperatorUserSet: true,
    NoStatefulFiltering: false,
    NoStatefulFilteringSet: true,
    ProfileName: 'work',
    ProfileNameSet: true,
    RelayServerStaticEndpoints: ['192.0.2.1:1', '192.0.2.2:2'],
    RelayServerStaticEndpointsSet: true,
  })
  expect(() => rarePrefs({ 'netfilter-mode': 'bad' }, false, {})).toThrow('invalid value --netfilter-mode="bad"')
})

test('each half of the updater setting leaves the other alone', () => {
  const before = { AutoUpdate: { Check: true, Apply: null } }
  expect(rarePrefs({ 'auto-update': true }, false, before)).toEqual({ AutoUpdate: { Check: true, Apply: true }, AutoUpdateSet: { ApplySet: true, CheckSet: false } })
  expect(rarePrefs({ 'update-check': false }, false, before)).toEqual({ AutoUpdate: { Check: false, Apply: null }, AutoUpdateSet: { ApplySet: false, CheckSet: true } })
})

test('nothing is changed that nobody names, and a reset sets what has a default', () => {
  expect(rarePrefs({}, false, {})).toEqual({})
  expect(rarePrefs({}, true, {})).toEqual({ NetfilterMode: 2, NetfilterModeSet: true, OperatorUser: '', OperatorUserSet: true, NoStatefulFiltering: true, NoStatefulFilteringSet: true })
})
