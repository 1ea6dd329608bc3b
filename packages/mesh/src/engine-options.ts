import type { EngineOptions } from './engine.ts'
import type { MeshNodeConfig } from './node-io.ts'

const DEFAULT_MTU = 1280

/** The MTU of the tunnel. */
export function mtuOf(config: MeshNodeConfig): number {
  return config.mtu ?? DEFAULT_MTU
}

/** What an engine is made from: a node's configuration, and what is this engine's own. */
export function engineOptions(config: MeshNodeConfig, own: Pick<EngineOptions, 'privateKey' | 'discoKey' | 'blockUdp' | 'nextLink'>): EngineOptions {
  return {
    ...own,
    random: config.random,
    wallClock: config.wallClock,
    mtu: mtuOf(config),
    allowLoopback: config.allowLoopback === true,
    ...(config.provider && { provider: config.provider }),
    ...(config.stopwatch && { stopwatch: config.stopwatch }),
  }
}
