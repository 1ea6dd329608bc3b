import type { ServerResponse } from 'node:http'
import { formatJson } from '@meshwright/control-protocol'
import type { RunningNode } from '@meshwright/runtime-node'
import { currentPrefs } from './local-prefs.ts'
import { type JsonObject, netmapJson, nodeJson } from './netmap-json.ts'
import { VERSION } from './version.ts'
import { stateNumber, statusJson } from './wire.ts'

// tailscale/tailscale:ipn/backend.go, type NotifyWatchOpt.
const INITIAL_STATE = 2
const INITIAL_PREFS = 4
const INITIAL_NETMAP = 8
const INITIAL_STATUS = 16384
/** The refusals of the control server: what ends a command that waits. Everything else may go away by itself. */
const FINAL = /^the control server refused the login: /

/** Notifications as newline-delimited JSON until the listener goes: state, URL to open, preferences, the node itself. */
export function watchBus(response: ServerResponse, node: RunningNode, mask: number): void {
  const has = (bit: number): boolean => (mask & bit) !== 0
  const before = node.status()
  let state: number | undefined = has(INITIAL_STATE) ? undefined : stateNumber(before.state)
  let url = has(INITIAL_STATE) ? undefined : before.authUrl
  let self = has(INITIAL_NETMAP) ? undefined : node.networkMap()?.self
  let selfKey = self?.nodeKey.text
  let problem = has(INITIAL_STATE) ? undefined : before.lastError
  let prefs = has(INITIAL_PREFS) ? '' : formatJson(currentPrefs(node))
  const tell = (first: boolean): void => {
    const status = node.status()
    const map = node.networkMap()
    const notify: JsonObject = { Version: VERSION }
    if (first && has(INITIAL_STATE)) notify['SessionID'] = 'meshwright'
    const next = stateNumber(status.state)
    // A new node key comes with the state again: who waits for a new login waits for both.
    const isRekeyed = map !== undefined && map.self.nodeKey.text !== selfKey
    if (next !== state || (isRekeyed && !first)) notify['State'] = next
    const shown = currentPrefs(node)
    const text = formatJson(shown)
    if (text !== prefs) notify['Prefs'] = shown
    if (first && has(INITIAL_NETMAP) && map !== undefined) notify['NetMap'] = netmapJson(map)
    if (first && has(INITIAL_STATUS)) notify['InitialStatus'] = statusJson(status, true, node.tunName !== undefined, map)
    if (map !== undefined && map.self !== self) notify['SelfChange'] = nodeJson(map.self, map)
    if (status.authUrl !== undefined && status.authUrl !== url) notify['BrowseToURL'] = status.authUrl
    // One that runs and is to log in anew goes on running when that is refused; what else goes wrong beside it is nobody's who waits.
    if (status.lastError !== undefined && status.lastError !== problem) {
      if (FINAL.test(status.lastError)) notify['ErrMessage'] = status.lastError.replace(FINAL, '')
      else if (status.state !== 'running') notify['MeshwrightProblem'] = status.lastError
    }
    state = next
    url = status.authUrl
    self = map?.self
    selfKey = map?.self.nodeKey.text ?? selfKey
    problem = status.lastError
    prefs = text
    if (Object.keys(notify).length > 1 || first) response.write(`${formatJson(notify)}\n`)
  }
  const stop = node.onChange(() => tell(false))
  response.on('close', stop)
  tell(true)
}
