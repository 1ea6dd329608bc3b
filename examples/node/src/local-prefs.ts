import os from 'node:os'
import { DEFAULT_PREFS } from '@meshwright/mesh'
import { DEFAULT_FOREIGN_PREFS, formatGoPrefs, type RunningNode } from '@meshwright/runtime-node'
import type { JsonObject } from './netmap-json.ts'
import { userJson } from './wire.ts'

const ZERO_PRIVATE = `privkey:${'0'.repeat(64)}`
const ZERO_LOCK_KEY = `nlpriv:${'0'.repeat(128)}`

/** The preferences as tailscaled's LocalAPI gives them: keys are zeroes always. */
export function currentPrefs(node: RunningNode): JsonObject {
  const status = node.status()
  const prefs = node.prefs()
  // The name of the computer is the default, which is written as no name.
  const shown = prefs.hostname === os.hostname().split('.')[0] ? { ...prefs, hostname: '' } : prefs
  const user = status.self && status.users.find((each) => each.id === status.self?.userId)
  const config = status.nodeKey === undefined ? null : { PrivateNodeKey: ZERO_PRIVATE, OldPrivateNodeKey: ZERO_PRIVATE, UserProfile: user === undefined ? { ID: 0, LoginName: '', DisplayName: '' } : userJson(user), NetworkLockKey: ZERO_LOCK_KEY, NodeID: status.self?.stableId ?? '' }
  return formatGoPrefs(shown, status.controlUrl, status.nodeKey === undefined && !prefs.wantRunning, node.foreignPrefs(), config)
}

/** Texts that are left out while they are empty. */
const NO_NAMES: Readonly<JsonObject> = { OperatorUser: '', ProfileName: '' }

/**
 * Sets every preference to its default: they belong to a login, and end with it, as with tailscaled. (Else the next `tailscale login` would refuse to
 * go on until all of them are named.) The address of the control server stays known.
 */
export function forgetPrefs(node: RunningNode): void {
  const others = Object.keys(node.foreignPrefs()).map((name) => [name, NO_NAMES[name] ?? DEFAULT_FOREIGN_PREFS[name] ?? null])
  node.setForeignPrefs(Object.fromEntries(others))
  node.setPrefs(DEFAULT_PREFS)
}

/** The one login of this daemon, as tailscaled lists profiles (tailscale/tailscale:ipn/prefs.go, LoginProfile). */
export function profileJson(node: RunningNode): JsonObject {
  const status = node.status()
  const user = status.self && status.users.find((each) => each.id === status.self?.userId)
  return {
    ID: status.self === undefined ? '' : '0001',
    Name: user?.loginName ?? '',
    NetworkProfile: { MagicDNSName: status.magicDnsSuffix, DomainName: status.domain, DisplayName: status.domain },
    Key: status.self === undefined ? '' : 'profile-0001',
    UserProfile: user === undefined ? { ID: 0, LoginName: '', DisplayName: '' } : userJson(user),
    NodeID: status.self?.stableId ?? '',
    LocalUserID: '',
    ControlURL: status.controlUrl,
  }
}
