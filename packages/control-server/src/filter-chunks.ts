import { formatJson } from '@meshwright/control-protocol'
import type { FilterRule } from '@meshwright/packet-filter'
import { ObjectNumbers } from './object-numbers.ts'

/** Sources that stand together in one chunk, about. */
const SOURCES_PER_CHUNK = 8
const MAX_CHUNKS_PER_RULE = 64
/** The chunk that is always there: without any, a client would take a missing filter for an unchanged one. */
const FIRST = 'base'
/** What a filter without rules is told as. */
const NOBODY: readonly FilterRule[] = [{ SrcIPs: [] }]
const NOTHING: readonly string[] = []

/** A named chunk that a receiver must be told: `json` is `null` where it is gone (`MapResponse.PacketFilters`). */
export interface ChunkChange {
  readonly name: string
  readonly json: string
}

/**
 * Tells packet filters in named chunks. Clients accept what any chunk accepts, so a rule with many sources may stand in several, each with
 * some of the sources; which, is decided by the source alone. A node that is added to a group of hundreds then changes one small chunk of
 * its peers' filters, and only that one is sent.
 *
 * Lists of sources are shared by the filters of many receivers, and by one state and the next: each list is written, and compared with the
 * one that it takes the place of, once for all of them. Rules that are the same objects are not looked at. Rules must never be changed in place.
 */
export class FilterChunks {
  /** The JSON of each part of a list; '' where a part has no source. */
  readonly #parts = new WeakMap<readonly string[], readonly string[]>()
  /** In which parts a list differs from the one that it took the place of, by its number. */
  readonly #moves = new WeakMap<readonly string[], { readonly from: number; readonly parts: readonly number[] }>()
  readonly #numbers = new ObjectNumbers()
  /** What stands behind the sources, by the largest part of it. */
  readonly #rests = new WeakMap<object, { readonly rule: FilterRule; readonly json: string }>()
  #sourcesWritten = 0

  /** How many sources have been written as JSON: grows with the lists that change, whoever receives them. */
  get sourcesWritten(): number {
    return this.#sourcesWritten
  }

  /** What changes for a receiver that was told `before`, or `undefined` for one that was told nothing. */
  changes(before: readonly FilterRule[] | undefined, after: readonly FilterRule[]): readonly ChunkChange[] {
    if (before === after) return []
    const changes: ChunkChange[] = []
    const old = before?.length === 0 ? NOBODY : (before ?? [])
    const now = after.length === 0 ? NOBODY : after
    for (let i = 0; i < old.length || i < now.length; i += 1) if (old[i] !== now[i]) this.#compare(i, old[i], now[i], changes)
    return changes
  }

  #compare(i: number, old: FilterRule | undefined, now: FilterRule | undefined, changes: ChunkChange[]): void {
    const [oldParts, nowParts] = [this.#partsOf(old), this.#partsOf(now)]
    const [oldRest, nowRest] = [this.#restOf(old), this.#restOf(now)]
    const look = (j: number): void => {
      const before = chunk(i, j, oldParts, oldRest)
      const after = chunk(i, j, nowParts, nowRest)
      if (before !== after) changes.push({ name: i + j === 0 ? FIRST : `${i}.${j}`, json: after ?? 'null' })
    }
    if (oldRest === nowRest && old !== undefined && now !== undefined) this.#moved(old.SrcIPs, now.SrcIPs, oldParts, nowParts).forEach(look)
    else for (let j = 0; j < oldParts.length || j < nowParts.length; j += 1) look(j)
  }

  #moved(from: readonly string[], to: readonly string[], oldParts: readonly string[], nowParts: readonly string[]): readonly number[] {
    const known = this.#moves.get(to)
    const number = this.#numbers.of(from)
    if (known?.from === number) return known.parts
    const parts: number[] = []
    for (let j = 0; j < oldParts.length || j < nowParts.length; j += 1) if (oldParts[j] !== nowParts[j]) parts.push(j)
    this.#moves.set(to, { from: number, parts })
    return parts
  }

  #partsOf(rule: FilterRule | undefined): readonly string[] {
    if (rule === undefined) return NOTHING
    const { SrcIPs, SrcBits } = rule
    // `SrcBits` goes by position.
    if (SrcBits !== undefined) return [formatJson(SrcIPs)]
    let parts = this.#parts.get(SrcIPs)
    if (parts === undefined) {
      parts = split(SrcIPs).map((sources) => (sources.length === 0 ? '' : formatJson(sources)))
      this.#parts.set(SrcIPs, parts)
      this.#sourcesWritten += SrcIPs.length
    }
    return parts
  }

  #restOf(rule: FilterRule | undefined): string {
    if (rule === undefined) return ''
    const key = rule.DstPorts ?? rule.CapGrant ?? rule
    const known = this.#rests.get(key)
    if (known !== undefined && known.rule.DstPorts === rule.DstPorts && known.rule.CapGrant === rule.CapGrant && known.rule.IPProto === rule.IPProto && known.rule.SrcBits === rule.SrcBits) return known.json
    const { SrcIPs: _, ...others } = rule
    const text = formatJson(others)
    const json = text === '{}' ? '}' : `,${text.slice(1)}`
    this.#rests.set(key, { rule, json })
    return json
  }
}

/** The text of a chunk; `undefined` where there is none. */
function chunk(i: number, j: number, parts: readonly string[], rest: string): string | undefined {
  const sources = parts[j]
  if (sources === undefined) return undefined
  // Sources that are nobody's say nothing, except that there is a filter.
  if (sources === '') return i + j === 0 ? '[]' : undefined
  return `[{"SrcIPs":${sources}${rest}]`
}

function split(sources: readonly string[]): readonly (readonly string[])[] {
  if (sources.length <= SOURCES_PER_CHUNK) return [sources]
  const count = Math.min(MAX_CHUNKS_PER_RULE, Math.ceil(sources.length / SOURCES_PER_CHUNK))
  const parts = Array.from({ length: count }, (): string[] => [])
  for (const source of sources) parts[bucketOf(hash(source), count)]?.push(source)
  return parts
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
