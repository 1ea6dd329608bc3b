import type { FlagSpec } from '../go-flags.ts'
import { CommandError } from './client.ts'

type Values = Readonly<Record<string, string | boolean | number | undefined>>
type Flags = Readonly<Record<string, FlagSpec>>

const OF_TAILSCALE = 'that is a service of Tailscale itself: make an auth key at the control server, and give it with --auth-key'

/** Rarer settings that `up`, `login` and `set` share: kept in the state file for other programs, or refused by name. */
export const RARE_SETTINGS: Flags = {
  'netfilter-mode': { type: 'string', help: 'kept for other programs, without effect here: on, nodivert or off', default: 'on' },
  operator: { type: 'string', help: 'kept for other programs, without effect here: who may open the socket may command the node' },
  'stateful-filtering': { type: 'bool', help: 'kept for other programs, without effect here: the filter of a node knows replies always' },
  'accept-risk': { type: 'string', help: 'taken, without effect: nothing here asks about risks' },
  ssh: { type: 'bool', help: 'an SSH server on the node', refused: 'this node is no SSH server: run sshd, and let the policy allow port 22' },
  'advertise-connector': { type: 'bool', help: 'be an app connector', refused: 'this node is no app connector: offer routes with --advertise-routes' },
  'report-posture': { type: 'bool', help: 'let the control server gather facts about this computer', refused: 'this node tells no facts about its computer' },
}

/** What `set` has in addition. */
export const SET_ONLY: Flags = {
  'auto-update': { type: 'bool', help: 'kept for other programs, without effect here: your package manager updates Meshwright' },
  'update-check': { type: 'bool', help: 'kept for other programs, without effect here' },
  nickname: { type: 'string', help: 'kept for other programs, without effect here: a daemon has one login' },
  'relay-server-static-endpoints': { type: 'string', help: 'kept for other programs, without effect here' },
  'relay-server-port': { type: 'string', help: 'be a relay for peers', refused: 'this node is no relay for peers: run meshwright-relay' },
  webclient: { type: 'bool', help: 'a web page on the node', refused: 'this node has no web page: use this command line' },
}

/** What `up` and `login` have in addition. */
export const LOGIN_ONLY: Flags = {
  qr: { type: 'bool', help: 'show the login URL as a QR code', refused: 'no QR code is drawn: the URL is printed' },
  'qr-format': { type: 'string', help: 'how a QR code is drawn', refused: 'no QR code is drawn: the URL is printed' },
  'client-id': { type: 'string', help: 'log in by workload identity', refused: OF_TAILSCALE },
  'client-secret': { type: 'string', help: 'log in by OAuth', refused: OF_TAILSCALE },
  'id-token': { type: 'string', help: 'log in by workload identity', refused: OF_TAILSCALE },
  audience: { type: 'string', help: 'log in by workload identity', refused: OF_TAILSCALE },
}

const NETFILTER_MODES: Readonly<Record<string, number>> = { off: 0, nodivert: 1, on: 2 }

/** Preferences that rare flags name, in the LocalAPI's masked form. @param before the preferences as they are */
export function rarePrefs(values: Values, reset: boolean, before: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const change: Record<string, unknown> = {}
  const set = (name: string, value: unknown, mask: unknown = true): void => {
    change[name] = value
    change[`${name}Set`] = mask
  }
  const mode = values['netfilter-mode'] ?? (reset ? 'on' : undefined)
  if (mode !== undefined) {
    const number = Object.hasOwn(NETFILTER_MODES, String(mode)) ? NETFILTER_MODES[String(mode)] : undefined
    if (number === undefined) throw new CommandError(`invalid value --netfilter-mode="${String(mode)}": one of on, nodivert, off`)
    set('NetfilterMode', number)
  }
  if (values['operator'] !== undefined || reset) set('OperatorUser', String(values['operator'] ?? ''))
  if (values['stateful-filtering'] !== undefined || reset) set('NoStatefulFiltering', values['stateful-filtering'] !== true)
  if (values['nickname'] !== undefined) set('ProfileName', String(values['nickname']))
  const endpoints = values['relay-server-static-endpoints']
  if (endpoints !== undefined) set('RelayServerStaticEndpoints', endpoints === '' ? null : String(endpoints).split(','))
  const { 'auto-update': apply, 'update-check': check } = values
  if (apply !== undefined || check !== undefined) {
    const now = before['AutoUpdate']
    set('AutoUpdate', { ...(typeof now === 'object' && now), ...(apply !== undefined && { Apply: apply }), ...(check !== undefined && { Check: check }) }, { ApplySet: apply !== undefined, CheckSet: check !== undefined })
  }
  return change
}
