import { describe, expect, test } from 'vitest'
import { FlagError, type FlagSpec, parseFlags, parseGoDuration } from './go-flags.ts'

const SPECS: Readonly<Record<string, FlagSpec>> = {
  state: { type: 'string', help: '' },
  'auth-key': { type: 'string', help: '', aliases: ['authkey'] },
  verbose: { type: 'bool', help: '' },
  port: { type: 'int', help: '' },
  timeout: { type: 'duration', help: '' },
}

describe('flags as Go reads them', () => {
  test.each([
    [['--state=a', 'rest', '--port=1'], { state: 'a' }, ['rest', '--port=1']],
    [['-state', 'a'], { state: 'a' }, []],
    [['--authkey', 'k'], { 'auth-key': 'k' }, []],
    [['--verbose', 'x'], { verbose: true }, ['x']],
    [['--verbose=false'], { verbose: false }, []],
    [['--port', '-1', '--', '--state'], { port: -1 }, ['--state']],
    [['--timeout=1m30s'], { timeout: 90_000 }, []],
    [['--state='], { state: '' }, []],
    [['-'], {}, ['-']],
  ])('%j', (words, values, args) => {
    expect(parseFlags(words, SPECS)).toEqual({ values, args })
  })

  test.each([
    [['--stat=a'], 'flag provided but not defined: -stat (did you mean "state"?)'],
    [['--zzzzzz'], 'flag provided but not defined: -zzzzzz'],
    [['--state'], 'flag needs an argument: -state'],
    [['--verbose=perhaps'], 'invalid boolean value "perhaps" for -verbose: parse error'],
    [['--port=1.5'], 'invalid value "1.5" for flag -port: parse error'],
    [['---state'], 'bad flag syntax: ---state'],
    [['--=x'], 'bad flag syntax: --=x'],
  ])('%j is refused', (words, message) => {
    expect(() => parseFlags(words, SPECS)).toThrow(new FlagError(message))
  })
})

test.each([
  ['0', 0],
  ['10s', 10_000],
  ['1h2m3.5s', 3_723_500],
  ['250ms', 250],
  ['1', undefined],
  ['s', undefined],
  ['-1s', undefined],
  ['1 s', undefined],
])('the duration %j is %j ms', (text, ms) => {
  expect(parseGoDuration(text)).toBe(ms)
})
