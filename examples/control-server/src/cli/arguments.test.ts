import { expect, test } from 'vitest'
import { type Flag, parseArguments } from './arguments.ts'
import { table } from './output.ts'

const FLAGS: readonly Flag[] = [
  { name: 'user', short: 'u', kind: 'text', help: '' },
  { name: 'tags', short: 't', kind: 'list', help: '' },
  { name: 'reusable', kind: 'switch', help: '' },
]

test.each([[['-u', '1']], [['-u1']], [['-u=1']], [['--user', '1']], [['--user=1']]])('%j all name user 1', (words) => {
  expect(parseArguments(words, FLAGS, 'x').text('user')).toBe('1')
})

test('lists are joined by commas or repeated; switches may be switched off; -- ends the flags', () => {
  const args = parseArguments(['--tags', 'tag:a,tag:b', '-t', 'tag:c', '--reusable=false', 'name', '--', '-u'], FLAGS, 'x')
  expect(args.list('tags')).toEqual(['tag:a', 'tag:b', 'tag:c'])
  expect(args.has('reusable')).toBe(false)
  expect(args.positional).toEqual(['name', '-u'])
  expect(parseArguments(['--reusable'], FLAGS, 'x').has('reusable')).toBe(true)
})

test.each([
  [['--usr', '1'], 'unknown flag: --usr (did you mean --user?)'],
  [['-x'], 'unknown shorthand flag: -x'],
  [['--user'], 'flag needs an argument: --user'],
  [['--reusable=maybe'], 'expected true or false'],
])('%j is refused', (words, message) => {
  expect(() => parseArguments(words, FLAGS, 'x')).toThrow(message)
})

test('a table is as wide as its widest cells', () => {
  expect(table(['ID', 'Name'], [['1', 'laptop'], ['22', '-']])).toBe('ID  Name\n──  ──────\n1   laptop\n22  -')
})
