import { instant } from '@meshwright/core'
import { SeededRandom } from '@meshwright/testkit'
import { describe, expect, test } from 'vitest'
import { endpoint, ip } from '../test/virtual-link.ts'
import { FlowSecrets } from './flow-secrets.ts'
import { SipHash } from './siphash.ts'
import { tcpPath } from './tcp-output.ts'

describe('SipHash-2-4', () => {
  // From appendix A of the paper, and the first of its authors' table of 64: the key is 0 to 15, the message 0 to length - 1.
  const hash = new SipHash(Uint8Array.from({ length: 16 }, (_, i) => i))
  const upTo = (length: number): string => {
    const [low, high] = hash.hash(Uint8Array.from({ length }, (_, i) => i))
    return high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')
  }

  test('gives the published values', () => {
    expect(upTo(15)).toBe('a129ca6149be45e5')
    expect(upTo(0)).toBe('726fdb47dd0e0e31')
    expect(upTo(1)).toBe('74f839c593dc67fd')
    expect(upTo(8)).toBe('93f5f5799a932462')
  })
})

describe('where connections begin to count', () => {
  const here = ip('100.64.0.1')
  const { ip: there, port } = endpoint('100.64.0.2', 80)

  test('the same two ends count forward with the clock, by number and by timestamp', () => {
    const secrets = new FlowSecrets(new SeededRandom(1).bytes)
    const path = tcpPath(here, 40_000, there, port)
    const first = secrets.start(instant(1_000), path)
    const later = secrets.start(instant(1_010), path)
    expect((later.sequence - first.sequence) | 0).toBe(156_250)
    expect(later.timestampOffset).toBe(first.timestampOffset)
  })

  test('other ends, other ports and other stacks begin elsewhere', () => {
    const secrets = new FlowSecrets(new SeededRandom(1).bytes)
    const starts = [
      secrets.start(instant(0), tcpPath(here, 40_000, there, port)),
      secrets.start(instant(0), tcpPath(here, 40_001, there, port)),
      secrets.start(instant(0), tcpPath(there, 40_000, here, port)),
      secrets.start(instant(0), tcpPath(ip('fd7a::1'), 40_000, ip('fd7a::2'), port)),
      new FlowSecrets(new SeededRandom(2).bytes).start(instant(0), tcpPath(here, 40_000, there, port)),
    ]
    expect(new Set(starts.map((start) => start.sequence)).size).toBe(starts.length)
    expect(new Set(starts.map((start) => start.timestampOffset)).size).toBe(starts.length)
  })
})
