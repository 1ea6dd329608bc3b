import type { CapGrant, FilterRule, NetPortRange, PortRange } from '@meshwright/packet-filter'
import { decoder, integer, type JsonDecoder, list, object, raw, record, required, type Shape, text } from './shape.ts'

const portRange: Shape<PortRange> = object<PortRange>({ First: required(integer, 0), Last: required(integer, 0) })

// An old `Bits` member would narrow the address: such a destination is refused rather than read too wide.
const netPortRange: Shape<NetPortRange> = (value, fault) => {
  const range = plainNetPortRange(value, fault)
  if (typeof value === 'object' && value !== null && 'Bits' in value && value.Bits !== null) return fault.fail('Bits is not supported')
  return range
}

const plainNetPortRange: Shape<NetPortRange> = object<NetPortRange>({
  IP: required(text, ''),
  Ports: required<PortRange>(portRange, { First: 0, Last: 0 }),
})

const capGrant: Shape<CapGrant> = object<CapGrant>({
  Dsts: required<readonly string[]>(list(text), []),
  Caps: list(text),
  CapMap: record<readonly unknown[] | null>(list(raw), null),
})

// A null in these lists must not vanish: what stands behind it would move up, and a list that had only nulls would mean "any".
const inPlace =
  <T>(shape: Shape<T>, unreadable: T): Shape<readonly T[]> =>
  (value, fault) =>
    list(shape)(Array.isArray(value) ? value.map((item: unknown) => item ?? unreadable) : value, fault)

/** Reads a `FilterRule`. */
export const filterRule: Shape<FilterRule> = object<FilterRule>({
  SrcIPs: required<readonly string[]>(inPlace(text, ''), []),
  SrcBits: inPlace(integer, -1),
  DstPorts: list(netPortRange),
  IPProto: inPlace(integer, -1),
  CapGrant: list(capGrant),
})

/** Decodes a list of filter rules; their meaning is the packet filter's affair. */
export const decodeFilterRules: JsonDecoder<readonly FilterRule[]> = decoder(list(filterRule))
