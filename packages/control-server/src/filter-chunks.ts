import { formatJson } from '@meshwright/control-protocol'
import type { FilterRule } from '@meshwright/packet-filter'

/** Sources that stand together in one chunk, about. */
const SOURCES_PER_CHUNK = 8
const MAX_CHUNKS_PER_RULE = 64
/** The chunk that is always there: without any, a client would take a missing filter for an unchanged one. */
const FIRST = 'base'

/**
 * A packet filter in named chunks, name to JSON (`MapResponse.PacketFilters`). Clients accept what any chunk accepts, so a rule with many
 * sources may stand in several, each with some of the sources; which, is decided by the source alone. A node that is added to a group
 * of hundreds then changes one small chunk of its peers' filters, and only that one is sent.
 */
export function filterChunks(rules: readonly FilterRule[]): ReadonlyMap<string, string> {
  const chunks = new Map<string, string>()
  rules.forEach((rule, i) => {
    splitSources(rule).forEach((part, j) => {
      if (part.SrcIPs.length > 0 || i + j === 0) chunks.set(i + j === 0 ? FIRST : `${i}.${j}`, part.SrcIPs.length > 0 ? formatJson([part]) : '[]')
    })
  })
  if (chunks.size === 0) chunks.set(FIRST, '[]')
  return chunks
}

function splitSources(rule: FilterRule): readonly FilterRule[] {
  // `SrcBits` goes by position. A rule without sources stays what it is.
  if (rule.SrcIPs.length <= SOURCES_PER_CHUNK || rule.SrcBits !== undefined) return [rule]
  const count = Math.min(MAX_CHUNKS_PER_RULE, Math.ceil(rule.SrcIPs.length / SOURCES_PER_CHUNK))
  const parts = Array.from({ length: count }, (): string[] => [])
  for (const source of rule.SrcIPs) parts[bucketOf(hash(source), count)]?.push(source)
  return parts.map((SrcIPs) => ({ ...rule, SrcIPs }))
}

// Linear hashing: one bucket more takes from one other bucket alone, so that growth does not send everything again.
function bucketOf(value: number, count: number): number {
  let size = 1
  while (size < count) size *= 2
  const bucket = value % size
  return bucket < count ? bucket : value % (size / 2)
}

// FNV-1a: only has to spread, and to give the same every time.
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i += 1) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return (value ^ (value >>> 15)) >>> 0
}
