import type { MapNode } from '@meshwright/control-client'

const MAX_LABEL = 63
/** Endings that networks at home give to their computers. */
const LOCAL_ENDINGS = ['.local', '.localdomain', '.lan'] as const

/** The names that tailscaled computes for people: that of the mesh, and with the computer's own behind it where that differs. */
export interface DisplayNames {
  readonly ComputedName: string
  readonly ComputedNameWithHost: string
}

/**
 * How a node is shown (tailscale/tailscale:tailcfg/tailcfg.go, Node.InitDisplayNames).
 * @param suffix of the own tailnet: nodes of another keep their whole name
 */
export function displayNames(node: MapNode, suffix: string): DisplayNames {
  const name = suffix !== '' && node.name.endsWith(`.${suffix}`) ? node.name.slice(0, -suffix.length - 1) : node.name
  const host = hostLabel(node.hostinfo.Hostname ?? '')
  const shown = name !== '' ? name : host !== '' ? host : node.nodeKey.text
  const differs = name !== '' && host !== '' && host !== name.toLowerCase()
  return { ComputedName: shown, ComputedNameWithHost: differs ? `${shown} (${host})` : shown }
}

/** The name of a computer as a label of DNS: separators become hyphens, all else that DNS lacks is left out (tailscale/tailscale:util/dnsname). */
function hostLabel(hostname: string): string {
  const whole = hostname.replace(/\.$/, '')
  const ending = LOCAL_ENDINGS.find((each) => whole.endsWith(each))
  const label = (ending === undefined ? whole : whole.slice(0, -ending.length)).slice(0, MAX_LABEL)
  return label
    .replace(/^[^0-9a-z]+|[^0-9a-z]+$/gi, '')
    .replace(/[ .@_]/g, '-')
    .replace(/[^0-9a-z-]/gi, '')
    .toLowerCase()
}
