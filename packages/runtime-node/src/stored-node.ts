import { type ControlState, magicDnsSuffix, type NetworkMap, parseControlState, userOf } from '@meshwright/control-client'
import { formatJson, parseJson } from '@meshwright/control-protocol'
import { MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { parsePrefix, type Prefix } from '@meshwright/ip'
import { DEFAULT_PREFS, type Prefs } from '@meshwright/mesh'
import { formatGoPrefs, type JsonObject, readGoPrefs } from './go-prefs.ts'
import { systemRandom } from './random.ts'
import { StateFile, StateFileError } from './state-file.ts'

const MACHINE_KEY = '_machinekey'
const PROFILES = '_profiles'
const CURRENT_PROFILE = '_current-profile'
const PROFILE_PREFIX = 'profile-'
const ZERO_KEY = `privkey:${'0'.repeat(64)}`
/** What versions before the present format wrote: read, replaced by the first write. */
const OLD_CONTROL_KEY = 'meshwright-control'
const OLD_PREFS_KEY = 'meshwright-prefs'

/** What a node remembers between starts. */
export interface StoredNode {
  readonly controlUrl: string | undefined
  readonly control: ControlState | undefined
  readonly prefs: Prefs | undefined
  /** Members of tailscaled's preferences that are kept for others. */
  readonly foreign: Readonly<JsonObject>
}

/** Whom a profile is for, as the network map tells. */
export interface ProfileOwner {
  readonly nodeId: string
  readonly domain: string
  readonly magicDnsSuffix: string
  readonly user: { readonly id: number | bigint; readonly loginName: string; readonly displayName: string } | undefined
}

/**
 * A node's memory: a state file, or nothing that outlives the process. The file has the layout of tailscaled's
 * (tailscale/tailscale:ipn/store.go, ipn/ipnlocal/profiles.go), so that each can go on from what the other wrote:
 *
 * | name | value |
 * |---|---|
 * | `_machinekey` | `privkey:` and 64 hex digits |
 * | `_profiles` | JSON, profile id to its login; those of others are kept |
 * | `_current-profile` | `profile-<id>` |
 * | `profile-<id>` | preferences as JSON; `Config` holds the node key |
 */
export class NodeStore {
  readonly #file: StateFile | undefined
  #memory: StoredNode
  #profileId: string
  #profiles: JsonObject = {}
  #login: JsonObject = {}
  #config: JsonObject = {}
  /** What is known is not all on the disk. */
  #isBehind = false

  /** Lets others have the file. */
  readonly release: () => void

  /**
   * @param path absent: in memory
   * @throws StateFileError when there is a file that cannot be read: it is left as it is
   */
  constructor(path: string | undefined, release: () => void = () => undefined) {
    this.release = release
    this.#file = path === undefined ? undefined : StateFile.open(path)
    this.#profileId = Buffer.from(systemRandom(2)).toString('hex')
    this.#memory = this.#read()
  }

  get stored(): StoredNode {
    return this.#memory
  }

  /** Stores keys; they are on the disk when it returns. */
  saveControl(control: ControlState | undefined): void {
    this.#memory = { ...this.#memory, control }
    this.#write()
  }

  /** Stores preferences and the control server's address; they are on the disk when it returns. */
  savePrefs(prefs: Prefs, controlUrl: string): void {
    this.#memory = { ...this.#memory, prefs, controlUrl }
    this.#write()
  }

  /** Stores members of tailscaled's preferences that others asked to keep. */
  saveForeign(change: Readonly<JsonObject>): void {
    this.#memory = { ...this.#memory, foreign: { ...this.#memory.foreign, ...change } }
    this.#write()
  }

  /** Stores whom the node belongs to; without a change nothing is written. */
  saveOwner(owner: ProfileOwner): void {
    const user = owner.user && { ID: owner.user.id, LoginName: owner.user.loginName, DisplayName: owner.user.displayName }
    const login: JsonObject = {
      ...this.#login,
      Name: owner.user?.loginName ?? '',
      NetworkProfile: { MagicDNSName: owner.magicDnsSuffix, DomainName: owner.domain, DisplayName: owner.domain },
      ...(user === undefined ? {} : { UserProfile: user }),
      NodeID: owner.nodeId,
    }
    const config: JsonObject = { ...this.#config, ...(user === undefined ? {} : { UserProfile: user }), NodeID: owner.nodeId }
    if (formatJson(login) === formatJson(this.#login) && formatJson(config) === formatJson(this.#config)) return
    this.#login = login
    this.#config = config
    this.#write()
  }

  /** Writes what could not be written when it was stored, if there is such. */
  catchUp(): void {
    if (this.#isBehind) this.#write()
  }

  #write(): void {
    this.#isBehind = true
    const { control, prefs, controlUrl, foreign } = this.#memory
    const key = PROFILE_PREFIX + this.#profileId
    if (control?.nodeKey === undefined) this.#config = {}
    else this.#config = { ...this.#config, PrivateNodeKey: control.nodeKey.formatSecret(), OldPrivateNodeKey: ZERO_KEY }
    this.#login = { ...this.#login, ID: this.#profileId, Key: key, LocalUserID: '', ControlURL: controlUrl ?? '' }
    const config = control?.nodeKey === undefined ? null : this.#config
    const written = formatGoPrefs(prefs ?? DEFAULT_PREFS, controlUrl ?? '', control?.nodeKey === undefined && prefs?.wantRunning !== true, foreign, config)
    this.#file?.write({
      ...(control === undefined ? {} : { [MACHINE_KEY]: control.machineKey.formatSecret() }),
      [PROFILES]: formatJson({ ...this.#profiles, [this.#profileId]: this.#login }),
      [CURRENT_PROFILE]: key,
      [key]: formatJson(written),
      [OLD_CONTROL_KEY]: undefined,
      [OLD_PREFS_KEY]: undefined,
    })
    this.#isBehind = false
  }

  #read(): StoredNode {
    const file = this.#file
    if (file === undefined) return { control: undefined, prefs: undefined, controlUrl: undefined, foreign: {} }
    if (file.names().includes(OLD_CONTROL_KEY) || file.names().includes(OLD_PREFS_KEY)) return this.#readOld(file)
    const machineText = file.read(MACHINE_KEY)
    const machineKey = machineText === undefined ? undefined : MachinePrivateKey.parse(machineText)
    if (machineText !== undefined && machineKey === undefined) throw this.#corrupt(MACHINE_KEY)
    this.#profiles = this.#object(file, PROFILES)
    const current = file.read(CURRENT_PROFILE) ?? ''
    const given = current === '' ? {} : this.#object(file, current)
    if (current === '') return { control: machineKey && { machineKey, nodeKey: undefined }, prefs: undefined, controlUrl: undefined, foreign: {} }
    if (!current.startsWith(PROFILE_PREFIX)) throw this.#corrupt(CURRENT_PROFILE)
    this.#profileId = current.slice(PROFILE_PREFIX.length)
    const login = this.#profiles[this.#profileId]
    this.#login = isObject(login) ? { ...login } : {}
    const config = given['Config']
    this.#config = isObject(config) ? { ...config } : {}
    const keyText = this.#config['PrivateNodeKey']
    const nodeKey = typeof keyText === 'string' && keyText !== ZERO_KEY ? NodePrivateKey.parse(keyText) : undefined
    if (keyText !== undefined && keyText !== ZERO_KEY && nodeKey === undefined) throw this.#corrupt(current)
    if (nodeKey !== undefined && machineKey === undefined) throw this.#corrupt(MACHINE_KEY)
    try {
      const read = readGoPrefs({ ...given, RunSSH: false, RunWebClient: false, PostureChecking: false, AppConnector: { Advertise: false }, AdvertiseServices: null, RelayServerPort: undefined }, false)
      const url = read.controlUrl ?? ''
      return {
        control: machineKey && { machineKey, nodeKey },
        prefs: { ...DEFAULT_PREFS, ...read.prefs },
        controlUrl: url === '' ? undefined : url,
        foreign: Object.fromEntries(Object.entries(read.foreign).filter(([, value]) => value !== undefined)),
      }
    } catch (error) {
      if (error instanceof TypeError) throw this.#corrupt(`${current} (${error.message})`)
      throw error
    }
  }

  #readOld(file: StateFile): StoredNode {
    const controlText = file.read(OLD_CONTROL_KEY)
    const control = controlText === undefined ? undefined : parseControlState(controlText)
    if (controlText !== undefined && control === undefined) throw this.#corrupt(OLD_CONTROL_KEY)
    const prefsText = file.read(OLD_PREFS_KEY)
    const prefs = prefsText === undefined ? undefined : parseOldPrefs(prefsText)
    if (prefsText !== undefined && prefs === undefined) throw this.#corrupt(OLD_PREFS_KEY)
    return { control, prefs: prefs?.prefs, controlUrl: prefs?.controlUrl, foreign: {} }
  }

  #object(file: StateFile, name: string): JsonObject {
    const given = file.read(name)
    if (given === undefined || given === '') return {}
    const value = parseObject(given)
    if (value === undefined) throw this.#corrupt(name)
    return value
  }

  #corrupt(name: string): StateFileError {
    return new StateFileError('STATE_FILE_CORRUPT', `the state file ${this.#file?.path ?? ''} holds '${name}' in a form that cannot be read`, {
      remedy: 'Restore it from a backup, or move it away to start as a new node.',
    })
  }
}

/** Whom a network map says that the node belongs to. */
export function ownerOf(map: NetworkMap): ProfileOwner {
  const user = userOf(map, map.self)
  return { nodeId: map.self.stableId, domain: map.domain, magicDnsSuffix: magicDnsSuffix(map), user: user && { id: user.ID, loginName: user.LoginName, displayName: user.DisplayName } }
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parseObject(given: string): JsonObject | undefined {
  const value = parseJson(given)
  return isObject(value) ? value : undefined
}

function parseOldPrefs(given: string): { readonly prefs: Prefs; readonly controlUrl: string | undefined } | undefined {
  const value = parseObject(given)
  if (value === undefined) return undefined
  const flag = (name: keyof Prefs, otherwise: boolean): boolean => (typeof value[name] === 'boolean' ? value[name] === true : otherwise)
  const word = (name: string): string => {
    const found = value[name]
    return typeof found === 'string' ? found : ''
  }
  const words = (name: string): readonly string[] => {
    const found = value[name]
    return Array.isArray(found) ? found.filter((each): each is string => typeof each === 'string') : []
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
