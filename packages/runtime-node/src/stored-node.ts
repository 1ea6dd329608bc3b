import { type ControlState, formatControlState, parseControlState } from '@meshwright/control-client'
import { isMeshwrightError } from '@meshwright/core'
import { formatPrefix, parsePrefix, type Prefix } from '@meshwright/ip'
import { DEFAULT_PREFS, type Prefs } from '@meshwright/mesh'
import { StateFile, StateFileError } from './state-file.ts'

const CONTROL_KEY = 'meshwright-control'
const PREFS_KEY = 'meshwright-prefs'

/** What a node remembers between starts. */
export interface StoredNode {
  readonly controlUrl: string | undefined
  readonly control: ControlState | undefined
  readonly prefs: Prefs | undefined
}

/** A node's memory: a state file, or nothing that outlives the process. */
export class NodeStore {
  readonly #file: StateFile | undefined
  #memory: StoredNode

  /**
   * @param path absent: in memory
   * @throws StateFileError when there is a file that cannot be read: it is left as it is
   */
  constructor(path: string | undefined) {
    this.#file = path === undefined ? undefined : StateFile.open(path)
    this.#memory = this.#read()
  }

  get stored(): StoredNode {
    return this.#memory
  }

  /** Stores keys; they are on the disk when it returns. */
  saveControl(control: ControlState | undefined): void {
    this.#memory = { ...this.#memory, control }
    this.#file?.write({ [CONTROL_KEY]: control && formatControlState(control) })
  }

  /** Stores preferences and the control server's address; they are on the disk when it returns. */
  savePrefs(prefs: Prefs, controlUrl: string): void {
    this.#memory = { ...this.#memory, prefs, controlUrl }
    const routes = prefs.advertiseRoutes.map(formatPrefix)
    this.#file?.write({ [PREFS_KEY]: JSON.stringify({ ...prefs, advertiseRoutes: routes, controlUrl }) })
  }

  #read(): StoredNode {
    const controlText = this.#file?.read(CONTROL_KEY)
    const control = controlText === undefined ? undefined : parseControlState(controlText)
    if (controlText !== undefined && control === undefined) throw this.#corrupt(CONTROL_KEY)
    const prefsText = this.#file?.read(PREFS_KEY)
    const prefs = prefsText === undefined ? undefined : parsePrefs(prefsText)
    if (prefsText !== undefined && prefs === undefined) throw this.#corrupt(PREFS_KEY)
    return { control, prefs: prefs?.prefs, controlUrl: prefs?.controlUrl }
  }

  #corrupt(name: string): StateFileError {
    return new StateFileError('STATE_FILE_CORRUPT', `the state file ${this.#file?.path ?? ''} holds '${name}' in a form that cannot be read`, {
      remedy: 'Restore it from a backup, or move it away to start as a new node.',
    })
  }
}

function parsePrefs(text: string): { readonly prefs: Prefs; readonly controlUrl: string | undefined } | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
  if (typeof value !== 'object' || value === null || isMeshwrightError(value)) return undefined
  const field = (name: string): unknown => (name in value ? (value as Readonly<Record<string, unknown>>)[name] : undefined)
  const flag = (name: keyof Prefs, otherwise: boolean): boolean => (typeof field(name) === 'boolean' ? field(name) === true : otherwise)
  const word = (name: string): string => {
    const given = field(name)
    return typeof given === 'string' ? given : ''
  }
  const words = (name: string): readonly string[] => {
    const given = field(name)
    return Array.isArray(given) ? given.filter((each): each is string => typeof each === 'string') : []
  }
  const routes = words('advertiseRoutes').map((route) => parsePrefix(route))
  if (routes.includes(undefined)) return undefined
  return {
    prefs: {
      wantRunning: flag('wantRunning', false),
      hostname: word('hostname'),
      advertiseRoutes: routes.filter((route): route is Prefix => route !== undefined),
      advertiseTags: words('advertiseTags'),
      acceptRoutes: flag('acceptRoutes', false),
      shieldsUp: flag('shieldsUp', false),
      acceptDns: flag('acceptDns', DEFAULT_PREFS.acceptDns),
      exitNode: word('exitNode'),
    },
    controlUrl: word('controlUrl') === '' ? undefined : word('controlUrl'),
  }
}
