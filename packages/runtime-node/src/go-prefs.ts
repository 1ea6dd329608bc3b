import { formatPrefix, isExitRoute, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import type { Prefs } from '@meshwright/mesh'

/** Any JSON object. */
export type JsonObject = Record<string, unknown>

/**
 * The members of tailscaled's preferences that this node keeps but does not act on, with their defaults on Linux
 * (tailscale/tailscale:ipn/prefs.go).
 */
export const DEFAULT_FOREIGN_PREFS: Readonly<JsonObject> = {
  InternalExitNodePrior: '',
  ExitNodeAllowLANAccess: false,
  RunSSH: false,
  RunWebClient: false,
  NotepadURLs: false,
  AdvertiseServices: null,
  Sync: null,
  NoSNAT: false,
  NoStatefulFiltering: true,
  NetfilterMode: 2,
  AutoUpdate: { Check: true, Apply: null },
  AppConnector: { Advertise: false },
  PostureChecking: false,
  NetfilterKind: '',
  RemoteConfig: false,
  DriveShares: null,
}

/** What would be a promise that this node does not keep: refused when it is switched on. */
const UNSUPPORTED: Readonly<Record<string, string>> = {
  RunSSH: 'an SSH server on the node',
  RunWebClient: 'the web interface',
  PostureChecking: 'posture checking',
  AppConnector: 'app connectors',
  AdvertiseServices: 'services with addresses of their own',
  RelayServerPort: 'peer relays',
}

/** What preferences in tailscaled's form say. */
export interface GoPrefs {
  readonly prefs: Partial<Prefs>
  /** Absent when nothing is said of it. */
  readonly controlUrl: string | undefined
  /** Members that this node keeps for others, as given. */
  readonly foreign: JsonObject
}

/** Preferences in tailscaled's form. `config` is the part with the keys: `null` for everyone but a state file. */
export function formatGoPrefs(prefs: Prefs, controlUrl: string, loggedOut: boolean, foreign: Readonly<JsonObject>, config: unknown = null): JsonObject {
  const isAddress = parseIp(prefs.exitNode) !== undefined
  const other = { ...DEFAULT_FOREIGN_PREFS, ...foreign }
  const {
    InternalExitNodePrior, ExitNodeAllowLANAccess, RunSSH, RunWebClient, NotepadURLs, AdvertiseServices, Sync, NoSNAT,
    NoStatefulFiltering, NetfilterMode, OperatorUser, ProfileName, AutoUpdate, AppConnector, PostureChecking, NetfilterKind, RemoteConfig, DriveShares, ...rest
  } = other
  return {
    ControlURL: controlUrl,
    RouteAll: prefs.acceptRoutes,
    ExitNodeID: isAddress ? '' : prefs.exitNode,
    ExitNodeIP: isAddress ? prefs.exitNode : '',
    InternalExitNodePrior,
    ExitNodeAllowLANAccess,
    CorpDNS: prefs.acceptDns,
    RunSSH,
    RunWebClient,
    WantRunning: prefs.wantRunning,
    LoggedOut: loggedOut,
    ShieldsUp: prefs.shieldsUp,
    AdvertiseTags: prefs.advertiseTags.length === 0 ? null : prefs.advertiseTags,
    Hostname: prefs.hostname,
    NotepadURLs,
    AdvertiseRoutes: prefs.advertiseRoutes.length === 0 ? null : prefs.advertiseRoutes.map(formatPrefix),
    AdvertiseServices,
    Sync,
    NoSNAT,
    NoStatefulFiltering,
    NetfilterMode,
    // Left out while they are empty, as tailscaled does it.
    ...(OperatorUser !== undefined && OperatorUser !== '' && { OperatorUser }),
    ...(ProfileName !== undefined && ProfileName !== '' && { ProfileName }),
    AutoUpdate,
    AppConnector,
    PostureChecking,
    NetfilterKind,
    RemoteConfig,
    DriveShares,
    ...rest,
    Config: config,
  }
}

/**
 * Reads preferences in tailscaled's form: all members, or (`masked`) those whose `<Name>Set` is true.
 * @throws TypeError naming the member that is of the wrong type, or asks for what this node cannot do
 */
export function readGoPrefs(given: Readonly<JsonObject>, masked: boolean): GoPrefs {
  const prefs: { -readonly [K in keyof Prefs]?: Prefs[K] } = {}
  const wanted = (name: string): boolean => (masked ? given[`${name}Set`] === true : name in given)
  const flag = (name: string, set: (value: boolean) => void): void => {
    if (!wanted(name)) return
    const value = given[name] ?? false
    if (typeof value !== 'boolean') throw new TypeError(`${name} must be true or false`)
    set(value)
  }
  const words = (name: string): readonly string[] => {
    const value = given[name] ?? []
    if (!Array.isArray(value) || !value.every((each): each is string => typeof each === 'string')) throw new TypeError(`${name} must be a list of texts`)
    return value
  }
  const word = (name: string): string => {
    const value = given[name] ?? ''
    if (typeof value !== 'string') throw new TypeError(`${name} must be a text`)
    return value
  }
  flag('WantRunning', (value) => (prefs.wantRunning = value))
  flag('RouteAll', (value) => (prefs.acceptRoutes = value))
  flag('ShieldsUp', (value) => (prefs.shieldsUp = value))
  flag('CorpDNS', (value) => (prefs.acceptDns = value))
  if (wanted('Hostname')) prefs.hostname = word('Hostname')
  const controlUrl = wanted('ControlURL') ? word('ControlURL') : undefined
  if (wanted('AdvertiseTags')) prefs.advertiseTags = words('AdvertiseTags')
  if (wanted('ExitNodeID')) prefs.exitNode = word('ExitNodeID')
  if (wanted('ExitNodeIP') && word('ExitNodeIP') !== '') prefs.exitNode = word('ExitNodeIP')
  if (wanted('AdvertiseRoutes')) prefs.advertiseRoutes = words('AdvertiseRoutes').map(readRoute)
  return { prefs, controlUrl, foreign: foreignMembers(given, masked) }
}

/** Reads a route to advertise. @throws TypeError saying what is wrong with it */
export function readRoute(text: string): Prefix {
  const prefix = parsePrefix(text)
  if (prefix === undefined || !text.includes('/')) throw new TypeError(`${text} is not a valid IP address or CIDR prefix`)
  if (formatPrefix(prefix) !== text && !isExitRoute(prefix)) throw new TypeError(`${text} has non-address bits set; expected ${formatPrefix(prefix)}`)
  return prefix
}

const EMPTY_TEXTS = new Set(['OperatorUser', 'ProfileName', 'NetfilterKind'])
const OWN = new Set(['ControlURL', 'RouteAll', 'ExitNodeID', 'ExitNodeIP', 'CorpDNS', 'WantRunning', 'LoggedOut', 'ShieldsUp', 'AdvertiseTags', 'Hostname', 'AdvertiseRoutes', 'Config', 'Persist'])

function foreignMembers(given: Readonly<JsonObject>, masked: boolean): JsonObject {
  const foreign: JsonObject = {}
  for (const [name, value] of Object.entries(given)) {
    if (OWN.has(name)) continue
    const mask = given[`${name}Set`]
    const isMask = name.endsWith('Set') && (masked || typeof value === 'object')
    if (isMask) continue
    // AutoUpdate and AppConnector are objects, whose masks are objects too.
    const chosen = !masked || mask === true || (typeof mask === 'object' && mask !== null && Object.values(mask).includes(true))
    if (!chosen) continue
    const what = UNSUPPORTED[name]
    if (what !== undefined && asksFor(value)) throw new TypeError(`${name}: this node does not offer ${what}`)
    foreign[name] = value
  }
  // What is empty is left out of what Go programs write: the mask alone says that it was set.
  for (const [mask, on] of Object.entries(masked ? given : {})) {
    const name = mask.replace(/Set$/, '')
    if (on === true && name !== mask && !OWN.has(name) && !(name in given)) foreign[name] = EMPTY_TEXTS.has(name) ? '' : null
  }
  return foreign
}

function asksFor(value: unknown): boolean {
  if (value === null || value === undefined || value === false) return false
  if (Array.isArray(value)) return value.length > 0
  return typeof value === 'object' ? Object.values(value).some(asksFor) : true
}
