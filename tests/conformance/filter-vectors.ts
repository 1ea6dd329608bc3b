import type { FilterRule } from '@meshwright/packet-filter'

/** What a packet filter says. */
export type Verdict = 'accept' | 'drop'

/** A packet, and what the filter of that name says to it. */
export interface PacketCase {
  readonly id: string
  readonly filter?: string
  readonly hex: string
  readonly verdict: Verdict
  readonly dropReason?: string
}

/** A filter: its rules in wire form, and whose they are. */
export interface FilterSetup {
  readonly localNets: readonly string[]
  readonly nodeCaps?: Readonly<Record<string, readonly string[]>>
  readonly rules: readonly FilterRule[]
}

/** What `filter-matching.json` holds of packets. */
export interface FilterVectors {
  readonly filters: Readonly<Record<string, FilterSetup>>
  readonly cases: readonly PacketCase[]
  readonly raw?: readonly PacketCase[]
  readonly sequences?: readonly { readonly id: string; readonly filter: string; readonly steps: readonly { readonly dir: 'in' | 'out'; readonly hex: string; readonly verdict: Verdict }[] }[]
}
