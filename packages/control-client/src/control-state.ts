import { formatJson, parseJson } from '@meshwright/control-protocol'
import { MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'

/** What a control client must remember between starts. Holds secrets: store it with mode 0600, never log it. */
export interface ControlState {
  /** Identity of this device at the server; made once, survives logout. */
  readonly machineKey: MachinePrivateKey
  /** The registered node key; absent before the first login and after logout. */
  readonly nodeKey: NodePrivateKey | undefined
}

const FORMAT_VERSION = 1

/** The state as JSON text **with its secrets**, for a file with mode 0600 and nothing else. */
export function formatControlState(state: ControlState): string {
  return formatJson({
    version: FORMAT_VERSION,
    machineKey: state.machineKey.formatSecret(),
    ...(state.nodeKey !== undefined && { nodeKey: state.nodeKey.formatSecret() }),
  })
}

/** Reads what {@link formatControlState} wrote; `undefined` when it is anything else, so that a damaged file is never taken for an empty one. */
export function parseControlState(text: string): ControlState | undefined {
  const value = parseJson(text)
  if (typeof value !== 'object' || value === null || !('version' in value) || value.version !== FORMAT_VERSION) return undefined
  if (!('machineKey' in value) || typeof value.machineKey !== 'string') return undefined
  const machineKey = MachinePrivateKey.parse(value.machineKey)
  const given = 'nodeKey' in value ? value.nodeKey : undefined
  const nodeKey = typeof given === 'string' ? NodePrivateKey.parse(given) : undefined
  if (machineKey === undefined || (given !== undefined && nodeKey === undefined)) return undefined
  return { machineKey, nodeKey }
}
