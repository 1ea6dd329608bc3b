import { parseHex } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import { NodePrivateKey } from '@meshwright/crypto'
import { type Endpoint, parseEndpoint, parsePrefix, type Prefix } from '@meshwright/ip'
import type { LaneArena } from '../../../packages/runtime-node/src/dataplane/memory-lane.ts'
import { type CaseResult, UnknownForm } from '../kind.ts'
import type { LaneActor, MakeActor } from './actor.ts'

/** A lane with a crypto provider, as golden data is put through it. */
export interface LaneUnderTest {
  readonly group: string
  readonly isMesh: boolean
  readonly provider: CryptoProvider
  readonly arena: LaneArena | undefined
  readonly make: MakeActor
}

/** A lane under this private key. */
export function actorOn({ make, provider, arena }: LaneUnderTest, privateKey: string): LaneActor {
  return make({ provider, arena, key: secret(privateKey) })
}

/** One case: passed when both read the same as JSON. */
export function check(under: LaneUnderTest, id: string, actual: unknown, expected: unknown): CaseResult {
  const [got, wanted] = [JSON.stringify(actual), JSON.stringify(expected)]
  const passed = got === wanted
  return { group: under.group, id: `${under.group}/${id}`, passed, ...(passed ? {} : { detail: `got ${got?.slice(0, 300)}, wanted ${wanted?.slice(0, 300)}` }) }
}

/** Bytes of hexadecimal text. */
export function hex(text: string): Uint8Array {
  const bytes = parseHex(text)
  if (bytes === undefined) throw new UnknownForm(text, 'hexadecimal')
  return bytes
}

/** A private key of 64 digits. */
export function secret(text: string): NodePrivateKey {
  const key = NodePrivateKey.fromBytes(hex(text))
  if (key === undefined) throw new UnknownForm(text, 'a private key of 32 bytes')
  return key
}

/** A number as four bytes, the lowest first. */
export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}

/** An endpoint as people write it. */
export function endpoint(text: string): Endpoint {
  const parsed = parseEndpoint(text)
  if (parsed === undefined) throw new UnknownForm(text, 'an endpoint')
  return parsed
}

/** A prefix as people write it. */
export function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new UnknownForm(text, 'a prefix')
  return parsed
}

/** Everything. */
export const ALL: readonly Prefix[] = [prefix('0.0.0.0/0'), prefix('::/0')]

/** Milliseconds well inside the slot of a timestamp: a double holds such to a quarter of a microsecond. */
export function wallOf(seconds: number, nanoseconds: number): number {
  return seconds * 1000 + (Math.floor(nanoseconds / 2 ** 24) * 2 ** 24 + 500_000) / 1e6
}

/** The wall clock that gave a timestamp of 12 bytes (TAI64N). */
export function wallOfTimestamp(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  return wallOf(Number(view.getBigUint64(0) & 0xffff_ffffn) - 10, view.getUint32(8))
}
