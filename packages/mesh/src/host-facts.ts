import type { Hostinfo } from '@meshwright/control-protocol'
import { formatPrefix } from '@meshwright/ip'
import type { MeshNodeConfig } from './node-io.ts'
import type { Prefs } from './prefs.ts'

// tailscaled refuses to speak without a log ID; nothing is ever logged elsewhere, so it names nobody.
const NO_LOG_ID = '0'.repeat(64)

/** What a node says of itself to the control server. */
export function hostFacts(config: MeshNodeConfig, prefs: Prefs): Hostinfo {
  const userspace = config.tun !== true
  return {
    IPNVersion: config.version ?? '1.102.5-meshwright',
    BackendLogID: NO_LOG_ID,
    OS: config.os ?? 'linux',
    ...(config.osVersion === undefined ? {} : { OSVersion: config.osVersion }),
    Hostname: prefs.hostname,
    ...(prefs.shieldsUp ? { ShieldsUp: true } : {}),
    NoLogsNoSupport: true,
    App: 'meshwright',
    Userspace: userspace,
    UserspaceRouter: userspace,
    ...(prefs.advertiseRoutes.length === 0 ? {} : { RoutableIPs: prefs.advertiseRoutes.map(formatPrefix) }),
    ...(prefs.advertiseTags.length === 0 ? {} : { RequestTags: prefs.advertiseTags }),
  }
}
