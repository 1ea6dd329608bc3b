import { MeshwrightError } from '@meshwright/core'

/** The environment variable that forces lanes and offloads. */
export const DATAPLANE_VARIABLE = 'MESHWRIGHT_DATAPLANE'

/** Codes of what reading the variable throws. */
export type DataPlaneErrorCode = 'DATAPLANE_MODE' | 'DATAPLANE_UNAVAILABLE' | 'DATAPLANE_WORKER'

/** A lane that cannot be had as it is asked for. */
export class DataPlaneError extends MeshwrightError<DataPlaneErrorCode> {}

/** Which lane, and which offloads may be tried. */
export interface LaneMode {
  /** `portable`: the event loop. `worker`: a thread of its own. `best`: the worker where it works, else the event loop. */
  readonly lane: 'portable' | 'worker' | 'best'
  readonly tso: boolean
  readonly uso: boolean
  readonly udpJoin: boolean
  readonly gso: boolean
  readonly gro: boolean
  /** Whether the worker asks for more processor time than programs have. */
  readonly priority: boolean
}

const ALL = { tso: true, uso: true, udpJoin: true, gso: true, gro: true, priority: true } as const
const NONE = { tso: false, uso: false, udpJoin: false, gso: false, gro: false, priority: true } as const
const SINGLE: ReadonlyMap<string, keyof typeof ALL> = new Map([['no-tso', 'tso'], ['no-uso', 'uso'], ['no-join', 'udpJoin'], ['no-gso', 'gso'], ['no-gro', 'gro'], ['no-priority', 'priority']])

/**
 * Reads the value of `MESHWRIGHT_DATAPLANE`: `portable`, `offload` (the worker, or an error), `noffload` (the worker, a packet for each
 * system call), each of the latter followed by `,no-tso`, `,no-uso`, `,no-join`, `,no-gso`, `,no-gro` to leave single offloads out, and by
 * `,no-priority` to leave the worker no priority over programs. Empty: the best that works.
 * @throws DATAPLANE_MODE for anything else
 */
export function parseLaneMode(text: string | undefined): LaneMode {
  const [lane = '', ...less] = (text ?? '').split(',')
  const left: Record<keyof typeof ALL, boolean> = { ...(lane === 'noffload' ? NONE : ALL) }
  for (const each of less) {
    const what = SINGLE.get(each)
    if (what === undefined || lane === 'portable') throw wrong(text)
    left[what] = false
  }
  switch (lane) {
    case '':
    case 'best':
      return { lane: 'best', ...left }
    case 'portable':
      return { lane: 'portable', ...NONE, priority: false }
    case 'offload':
    case 'noffload':
      return { lane: 'worker', ...left }
    default:
      throw wrong(text)
  }
}

function wrong(text: string | undefined): DataPlaneError {
  return new DataPlaneError('DATAPLANE_MODE', `${DATAPLANE_VARIABLE} is ${JSON.stringify(text)}, which is none of portable, offload, noffload, with no-tso, no-uso, no-join, no-gso, no-gro, no-priority behind`)
}
