import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { isNotOnLane, laneDocument, laneEnvironment, LANES, NOT_ON_LANE, readLaneDocument, withLane } from '../interop/lanes.ts'
import type { Cell } from '../interop/matrix.ts'
import { ROOT } from './repository.ts'

const cell = (flow: string, more: Partial<Cell> = {}): Cell => ({ group: 'wg-tools', flow, peer: 'wg', outcome: 'ok', ms: 0, reason: '', ...more })
const OFFLOAD = [cell('a | b'), cell('c', { outcome: 'FAILED', reason: 'Error: x | y' }), cell('d', { group: 'dataplane', outcome: 'skipped', reason: 'no root' })]
const PORTABLE = [cell('a | b', { reason: 'at the second try; at the first: late' }), cell('c', { outcome: 'skipped', reason: `${NOT_ON_LANE}there is no worker` })]
const BOTH = new Map([['offload', OFFLOAD], ['portable', PORTABLE]])

describe('what real programs did on each lane, as a document', () => {
  test('what is written is read again', () => {
    expect(readLaneDocument(laneDocument(BOTH))).toEqual(BOTH)
    expect(readLaneDocument('# nothing yet\n')).toEqual(new Map())
  })

  test('it counts what was tried, and says of the rest why it says nothing', () => {
    const text = laneDocument(BOTH)
    expect(text).toContain('| wg-tools | 1 of 2 ok; FAILED: c | 1 of 1 ok; 1 not on this lane |')
    expect(text).toContain('| dataplane | 0 of 1 ok; 1 skipped | not run |')
    expect(text).toContain('| `portable` | wg-tools | c | there is no worker |')
  })

  test('a part takes the place of its own cells on its own lane; a whole run that of all cells of the lane', () => {
    const better = [cell('c')]
    expect(withLane(BOTH, 'portable', better, false)).toEqual(new Map([['offload', OFFLOAD], ['portable', [PORTABLE[0], better[0]]]]))
    expect(withLane(BOTH, 'offload', better, true)).toEqual(new Map([['offload', better], ['portable', PORTABLE]]))
    expect([...withLane(withLane(BOTH, 'offload,no-gso', better, false), 'noffload', better, false).keys()]).toEqual(['offload', 'noffload', 'portable', 'offload,no-gso'])
  })

  test('a lane names its environment', () => {
    expect(laneEnvironment('noffload,no-priority')).toEqual({ MESHWRIGHT_DATAPLANE: 'noffload,no-priority' })
    expect(laneEnvironment('portable+wasm')).toEqual({ MESHWRIGHT_DATAPLANE: 'portable', MESHWRIGHT_CRYPTO: 'wasm' })
  })
})

describe('the document of the repository', () => {
  const lanes = readLaneDocument(readFileSync(path.join(ROOT, 'docs', 'lanes.md'), 'utf8'))
  const names = (cells: readonly Cell[]): readonly string[] => cells.map(({ group, flow, peer }) => `${group}: ${flow} [${peer}]`).sort()

  test('of a suite every flow has an outcome on a lane, or a reason that lies in the lane', () => {
    expect([...lanes.keys()]).toEqual(expect.arrayContaining([...LANES.keys()]))
    const all = [...new Set([...lanes.values()].flatMap(names))].sort()
    expect(all.length).toBeGreaterThan(130)
    for (const [lane, cells] of lanes) {
      const groups = new Set(cells.map(({ group }) => group))
      expect([lane, names(cells)]).toEqual([lane, all.filter((name) => [...groups].some((group) => name.startsWith(`${group}: `)))])
    }
    expect([...lanes.values()].flat().filter((each) => each.outcome === 'skipped' && !isNotOnLane(each))).toEqual([])
  })

  test('it is read and written without a change to any cell', () => {
    expect(readLaneDocument(laneDocument(lanes))).toEqual(lanes)
  })

  test('whoever reads of lanes finds it', () => {
    for (const file of ['packages/runtime-node/README.md', 'docs/interop.md', 'docs/dataplane.md']) {
      const link = /\]\(([^)]*lanes\.md)\)/.exec(readFileSync(path.join(ROOT, file), 'utf8'))?.[1]
      expect([file, link !== undefined && existsSync(path.resolve(ROOT, path.dirname(file), link))]).toEqual([file, true])
    }
  })
})
