import { mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { applyMapResponse, type ControlState, type NetworkMap } from '@meshwright/control-client'
import type { MapResponse } from '@meshwright/control-protocol'
import { MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { LAST_MAP_MAX_AGE_MS, LastMap, type MapOwner } from './last-map.ts'
import { systemRandom } from './random.ts'

const URL = 'https://control.example'
let folder: string
let file: string
let problems: string[]

beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-last-map-'))
  file = path.join(folder, 'node.state')
  problems = []
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

const identity = (): ControlState => ({ machineKey: MachinePrivateKey.generate(systemRandom), nodeKey: NodePrivateKey.generate(systemRandom) })
const lastMap = (owner: MapOwner): LastMap => new LastMap(file, () => owner, (line) => problems.push(line))

function mapFor(control: ControlState, change: Partial<MapResponse> = {}): NetworkMap {
  const self = { ID: 1, StableID: '1', Name: 'a.example.', User: 1, Key: control.nodeKey?.publicKey().text ?? '', Addresses: ['100.64.0.1/32'] }
  const peer = { ...self, ID: 2, StableID: '2', Name: 'b.example.', Key: `nodekey:${'2'.repeat(64)}`, Addresses: ['100.64.0.2/32'], Endpoints: ['192.0.2.1:1'] }
  const rules = { base: [{ SrcIPs: ['100.64.0.2'], DstPorts: [{ IP: '*', Ports: { First: 22, Last: 22 } }] }] }
  return applyMapResponse(undefined, { Node: self, Peers: [peer], PacketFilters: rules, Domain: 'example', ...change }, 0) ?? expect.fail('no map')
}

/** A map on the disk, for whom it is. */
function kept(): MapOwner {
  const owner = { control: identity(), controlUrl: URL }
  const keeper = lastMap(owner)
  keeper.keep(mapFor(owner.control))
  keeper.flush()
  return owner
}

test('what was kept comes back as it was, from a file for its owner alone', () => {
  const owner = kept()
  expect(statSync(`${file}.map`).mode & 0o777).toBe(0o600)
  const map = applyMapResponse(undefined, lastMap(owner).read(Date.now()) ?? expect.fail('nothing'), 0)
  const control = owner.control ?? expect.fail('no keys')
  expect(map).toEqual(mapFor(control))
  expect(readFileSync(`${file}.map`, 'utf8')).not.toContain(control.machineKey.formatSecret())
  expect(problems).toEqual([])
})

describe('a kept map is not used', () => {
  test('when any byte of it was changed', () => {
    const owner = kept()
    const good = readFileSync(`${file}.map`)
    for (let at = 0; at < good.length - 1; at += 1) {
      const bad = Buffer.from(good)
      bad.writeUInt8(bad.readUInt8(at) ^ 1, at)
      writeFileSync(`${file}.map`, bad)
      expect(lastMap(owner).read(Date.now()), `byte ${at}`).toBeUndefined()
    }
    for (const text of ['', '\n\n', good.subarray(0, good.length / 2).toString(), good.toString().split('\n').slice(0, 2).join('\n')]) {
      writeFileSync(`${file}.map`, text)
      expect(lastMap(owner).read(Date.now())).toBeUndefined()
    }
    expect(problems.at(-1)).toMatch(/was changed: it is not used/)
  })

  test('when another machine has sealed it', () => {
    kept()
    expect(lastMap({ control: identity(), controlUrl: URL }).read(Date.now())).toBeUndefined()
    expect(problems).toHaveLength(1)
  })

  test('when it is for another node key or another server, or there is no key', () => {
    const { control } = kept()
    if (control === undefined) throw new Error('no keys')
    expect(lastMap({ control: { ...control, nodeKey: NodePrivateKey.generate(systemRandom) }, controlUrl: URL }).read(Date.now())).toBeUndefined()
    expect(lastMap({ control, controlUrl: 'https://elsewhere.example' }).read(Date.now())).toBeUndefined()
    expect(lastMap({ control: { ...control, nodeKey: undefined }, controlUrl: URL }).read(Date.now())).toBeUndefined()
    expect(problems).toEqual([])
  })

  test('when it is old, by its own word and not by that of the file system', () => {
    const owner = kept()
    utimesSync(`${file}.map`, 0, 0)
    expect(lastMap(owner).read(Date.now())).toBeDefined()
    expect(lastMap(owner).read(Date.now() + LAST_MAP_MAX_AGE_MS + 1_000)).toBeUndefined()
    expect(lastMap(owner).read(Date.now() - LAST_MAP_MAX_AGE_MS - 60_000)).toBeUndefined()
  })

  test('once it is forgotten; a map for a key that is no more is not kept', () => {
    const owner = kept()
    const keeper = lastMap(owner)
    keeper.forget()
    expect(keeper.read(Date.now())).toBeUndefined()
    keeper.keep(mapFor(identity()))
    keeper.flush()
    expect(keeper.read(Date.now())).toBeUndefined()
    expect(problems).toEqual([])
  })
})

test('a disk that does not take it is told of, once each time, and costs nothing else', () => {
  const owner = { control: identity(), controlUrl: URL }
  writeFileSync(file, '')
  const keeper = new LastMap(path.join(file, 'below-a-file'), () => owner, (line) => problems.push(line))
  keeper.keep(mapFor(owner.control))
  keeper.flush()
  expect(problems).toEqual([expect.stringContaining('cannot be kept')])
})
