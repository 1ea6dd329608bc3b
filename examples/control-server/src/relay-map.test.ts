import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { readRelayMap } from './relay-map.ts'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-relays-'))
})
afterEach(() => {
  rmSync(folder, { recursive: true, force: true })
})

const read = (text: string): ReturnType<typeof readRelayMap> => {
  const file = path.join(folder, 'relays.yaml')
  writeFileSync(file, text)
  return readRelayMap(file)
}

const NODE = { Name: '900a', RegionID: 900, HostName: '127.0.0.1', CertName: 'sha256-raw:ab', IPv4: '127.0.0.1', IPv6: 'none', STUNPort: 3479, DERPPort: 3443 }

test('the entry that a relay prints is taken as it is, and so is one in small letters', () => {
  const printed = read(`regions: {900: {regionid: 900, regioncode: own, regionname: Own, nodes: [${JSON.stringify(NODE)}]}}`)
  expect(printed.Regions?.['900']).toMatchObject({ RegionID: 900, RegionCode: 'own', Nodes: [NODE] })
  const small = Object.fromEntries(Object.entries(NODE).map(([name, value]) => [name.toLowerCase(), value]))
  expect(read(`regions: {900: {RegionID: 900, RegionCode: own, RegionName: Own, Nodes: [${JSON.stringify(small)}]}}`)).toEqual(printed)
})

test.each([
  ['regions: {900: {regionid: 900, colour: red}}', /regions\.900: unknown key colour/],
  ['regions: {900: {nodes: [{name: a, port: 1}]}}', /regions\.900\.nodes\[0\]: unknown key port/],
  ['regions: [1', /relays\.yaml:1:\d+: /],
  ['regions: {900: {}, 900: {}}', /relays\.yaml:1:20: 900 is written twice/],
  ['relays: {}', /unknown key relays/],
])('what cannot be meant is refused with its place: %s', (text, expected) => {
  expect(() => read(text)).toThrow(expected)
})
