import { mapNode, type MapNode } from '@meshwright/control-client'
import { expect, test } from 'vitest'
import { displayNames } from './display-names.ts'

const KEY = `nodekey:${'1'.repeat(64)}`

function node(Name: string, Hostname: string): MapNode {
  const made = mapNode({ ID: 1, StableID: '1', Name, User: 1, Key: KEY, Addresses: [], Hostinfo: { Hostname } })
  return made ?? expect.fail('no node')
}

test.each([
  ['laptop.lab.test.', 'laptop', 'laptop', 'laptop'],
  ['laptop.lab.test.', 'LAPTOP', 'laptop', 'laptop'],
  ['another.lab.test.', 'Peter_s MacBook.local', 'another', 'another (peter-s-macbook)'],
  ['shared.other.test.', 'shared', 'shared.other.test', 'shared.other.test (shared)'],
  ['', 'laptop', 'laptop', 'laptop'],
  ['', '', KEY, KEY],
])('%s on a computer called %s is shown as %s and %s', (name, hostname, ComputedName, ComputedNameWithHost) => {
  expect(displayNames(node(name, hostname), 'lab.test')).toEqual({ ComputedName, ComputedNameWithHost })
})
