import os from 'node:os'
import type { ControlClientInput, ControlState } from '@meshwright/control-client'
import type { MapResponse } from '@meshwright/control-protocol'
import type { Instant } from '@meshwright/core'
import type { CryptoProvider } from '@meshwright/crypto'
import { parsePrefix, type Prefix } from '@meshwright/ip'
import { DEFAULT_PREFS, Engine, type EngineOptions, type MeshInput, MeshNode, type MeshOutput, type Prefs } from '@meshwright/mesh'
import { ControlTransport } from './control-dial.ts'
import { type Driver, drive } from './drive.ts'
import type { MeshPlane } from './mesh-lane/mesh-plane.ts'
import { type MeshDaemonOptions, MeshRuntimeError } from './mesh-runtime.ts'
import type { Outside } from './outside.ts'
import { systemRandom } from './random.ts'
import { RelayDriver } from './relay-driver.ts'
import type { RowUdpSocket } from './udp-rows.ts'

/** A machine and what carries it: made anew when the node turns to another control server. */
export interface NodeParts {
  readonly node: MeshNode
  readonly driver: Driver<MeshInput>
  readonly transport: ControlTransport
  readonly relays: RelayDriver
}

/** Where a node's sealed rows are laid out, and who sends them. */
export type RowDoor = () => Pick<RowUdpSocket, 'row' | 'sendRow'> | undefined

/** What the parts are made from. */
export interface NodePartsFrom {
  readonly options: MeshDaemonOptions
  readonly clock: () => Instant
  readonly crypto: CryptoProvider
  readonly outside: Outside
  readonly controlUrl: string
  readonly state: ControlState | undefined
  readonly prefs: Prefs
  /** The map of an earlier run, for when the server is away. */
  readonly lastMap: MapResponse | undefined
  readonly blockUdp: boolean
  /** Whoever carries the packets in a thread of its own. */
  readonly plane: MeshPlane | undefined
  /** Where sealed rows of the node's own stack go; `undefined` where a TUN device has its place. */
  readonly rows: RowDoor | undefined
  /** Performs what the machine owes; also, before this function returns, what it owes from its construction. */
  readonly perform: (output: MeshOutput, transport: ControlTransport, relays: RelayDriver) => void
  /** Feeds the machine that is in force. */
  readonly feed: (input: MeshInput) => void
}

/** Makes a machine and starts driving it. */
export function makeParts(from: NodePartsFrom): NodeParts {
  const { options, controlUrl, crypto: provider, outside } = from
  const node = new MeshNode(from.clock(), {
    random: systemRandom,
    wallClock: () => Date.now(),
    provider,
    stopwatch: () => performance.now(),
    controlUrl,
    prefs: from.prefs,
    os: process.platform === 'win32' ? 'windows' : process.platform === 'darwin' ? 'macOS' : process.platform,
    osVersion: os.release(),
    allowLoopback: options.allowLoopback === true,
    blockUdp: from.blockUdp,
    ...(options.version === undefined ? {} : { version: options.version }),
    ...(from.state === undefined ? {} : { state: from.state }),
    ...(from.lastMap === undefined ? {} : { lastMap: from.lastMap }),
    ...(options.ephemeral === true ? { ephemeral: true } : {}),
    ...(options.tun === undefined ? {} : { tun: true }),
    ...(from.rows && { rows: true }),
    ...(from.plane && { makeEngine: (engine: EngineOptions) => from.plane?.makeEngine(engine) ?? new Engine(engine) }),
  })
  const transport = new ControlTransport({ url: controlUrl, machineKey: node.controlIdentity, random: systemRandom, provider, outside }, (input: ControlClientInput) => from.feed({ type: 'control', input }))
  const relays = new RelayDriver((input) => from.feed({ type: 'relay', input }), options.relayPlainHttp === true, outside, () => from.plane?.isBehind === true)
  const { rows } = from
  const driver = drive(node, from.clock, (output) => from.perform(output, transport, relays), rows && ((now) => sendRows(now, node, rows)))
  return { node, driver, transport, relays }
}

function sendRows(now: Instant, node: MeshNode, rows: RowDoor): void {
  const door = rows()
  if (door === undefined) return // not yet: what waits is sent once it is open
  for (let to = node.packets.nextRow(now, door.row); to !== undefined; to = node.packets.nextRow(now, door.row)) door.sendRow(to, door.row)
}

/** The routes that the options offer. @throws MeshRuntimeError for what is no address range */
export function routesOf(options: MeshDaemonOptions): readonly Prefix[] {
  return (options.advertiseRoutes ?? []).map((text) => {
    const prefix = parsePrefix(text)
    if (prefix === undefined) throw new MeshRuntimeError('RUNTIME_OPTION', `advertiseRoutes: '${text}' is no address range`, { remedy: 'Write it as 10.0.0.0/8.' })
    return prefix
  })
}

/** The preferences that a node starts with: the stored ones, under what the options say. */
export function firstPrefs(stored: Prefs | undefined, options: MeshDaemonOptions, routes: readonly Prefix[], systemName: string): Prefs {
  return {
    ...(stored ?? DEFAULT_PREFS),
    wantRunning: options.respectStoredPrefs === true ? (stored?.wantRunning ?? false) : true,
    hostname: options.hostname ?? (stored?.hostname || systemName),
    ...(options.advertiseRoutes === undefined ? {} : { advertiseRoutes: routes }),
    ...(options.advertiseTags === undefined ? {} : { advertiseTags: options.advertiseTags }),
    ...(options.acceptRoutes === undefined ? {} : { acceptRoutes: options.acceptRoutes }),
    ...(options.shieldsUp === undefined ? {} : { shieldsUp: options.shieldsUp }),
  }
}
