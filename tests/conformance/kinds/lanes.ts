import { readFile } from 'node:fs/promises'
import path from 'node:path'
import type { CryptoProvider } from '@meshwright/crypto'
import { arenaOf, type LaneArena } from '../../../packages/runtime-node/src/dataplane/memory-lane.ts'
import { isWasmProvider } from '../../../packages/runtime-node/src/dataplane/lane-context.ts'
import { nodeCryptoProvider } from '../../../packages/runtime-node/src/node-crypto.ts'
import { wasmCryptoProvider } from '../../../packages/runtime-node/src/wasm-crypto.ts'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'
import { LANES } from '../lanes/actor.ts'
import { addressesOnLane, type AddressVectors } from '../lanes/addresses.ts'
import type { FilterVectors } from '../filter-vectors.ts'
import { filterOnLane } from '../lanes/filter.ts'
import { type LaneUnderTest } from '../lanes/lane-under-test.ts'
import { recordingOnLane, type Recording } from '../lanes/recording.ts'
import { replaysOnLane, wireguardOnLane, type WireGuardVectors } from '../lanes/wireguard.ts'
import { cryptoProviders } from '../providers.ts'

/** The provider that tables are tried with, which hold no cryptography: windows of counters, allowed addresses, the packet filter. */
const TABLES_BY = 'wasm'

/**
 * Golden data through every lane of the data plane, from what the TUN device or the network gives to what they are given: WireGuard's
 * handshakes, packets, cookies, refusals and replays, and a recording with a real tailscaled, each with every crypto provider; the table of
 * allowed addresses and the packet filter. Only the kernel's system calls are not part of it.
 */
export const kind: Kind = {
  name: 'lanes',
  defaultPath: 'vectors/.',
  copied: true,
  async run(location: string): Promise<readonly CaseResult[]> {
    const wireguard = await read<WireGuardVectors>(location, ['wireguard.json'], 'handshakes')
    const recording = await read<Recording>(location, ['disco/wireguard-with-tailscaled.json'], 'packets')
    const addresses = await read<AddressVectors>(location, ['allowedips.json'], 'scenarios')
    const filter = await read<FilterVectors>(location, ['filter-matching.json', '../conformance/filter-matching.json'], 'cases')
    const results: CaseResult[] = []
    for (const provider of cryptoProviders()) {
      const arena = arenaFor(provider)
      for (const lane of LANES) {
        const under: LaneUnderTest = { ...lane, provider, arena: lane.needsArena ? arena : undefined, group: `${lane.name}, ${provider.name}` }
        results.push(...wireguardOnLane(wireguard, under), ...recordingOnLane(recording, under))
        if (provider.name !== TABLES_BY) continue
        results.push(...replaysOnLane(wireguard, under), ...addressesOnLane(addresses, under), ...(lane.isMesh ? filterOnLane(filter, under) : []))
      }
    }
    return results
  },
}

const arenas = new Map<unknown, LaneArena>()

/** Memory for the lanes of a provider: in its own, where it has one; two that stand on one memory share it. */
function arenaFor(provider: CryptoProvider): LaneArena {
  const place = isWasmProvider(provider) ? provider.instance : undefined
  const arena = arenas.get(place) ?? arenaOf(place === undefined ? spareProvider() : provider)
  arenas.set(place, arena)
  return arena
}

function spareProvider(): CryptoProvider {
  const wasm = wasmCryptoProvider(nodeCryptoProvider)
  if (wasm === undefined) throw new Error('the lanes of a worker need WebAssembly SIMD')
  return wasm
}

async function read<T>(folder: string, names: readonly string[], has: string): Promise<T> {
  for (const name of names) {
    const text = await readFile(path.join(folder, name), 'utf8').catch(() => undefined)
    if (text === undefined) continue
    const data: unknown = JSON.parse(text)
    if (typeof data === 'object' && data !== null && has in data) return data as T // its own form, as its README tells
  }
  throw new UnknownForm(folder, `a folder with ${names[0] ?? ''}`)
}
