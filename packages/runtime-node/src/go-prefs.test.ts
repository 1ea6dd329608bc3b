import { DEFAULT_PREFS } from '@meshwright/mesh'
import { expect, test } from 'vitest'
import { formatGoPrefs, readGoPrefs } from './go-prefs.ts'

test('a member that was emptied is left out by its sender: its mask alone says so', () => {
  expect(readGoPrefs({ OperatorUser: 'alice', OperatorUserSet: true }, true).foreign).toEqual({ OperatorUser: 'alice' })
  expect(readGoPrefs({ OperatorUserSet: true, RelayServerPortSet: true, WantRunningSet: true }, true).foreign).toEqual({ OperatorUser: '', RelayServerPort: null })
})

test('texts that are empty by default stand in their place when they are not, and nowhere when they are', () => {
  const names = (foreign: Record<string, unknown>): readonly string[] => Object.keys(formatGoPrefs(DEFAULT_PREFS, '', false, foreign))
  expect(names({ OperatorUser: '', ProfileName: '' })).not.toContain('OperatorUser')
  const given = names({ ProfileName: 'x', OperatorUser: 'alice' })
  const at = given.indexOf('NetfilterMode')
  expect(given.slice(at, at + 4)).toEqual(['NetfilterMode', 'OperatorUser', 'ProfileName', 'AutoUpdate'])
})
