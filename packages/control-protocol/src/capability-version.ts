/**
 * The capability version that this implementation speaks: what tailscale 1.102 sends, so that servers treat our nodes as they treat
 * that release (tailscale/tailscale:tailcfg/tailcfg.go, CurrentCapabilityVersion).
 */
export const CAPABILITY_VERSION = 142

/** The lowest version that our server should serve: tailscale 1.80, the oldest client seen to work with it. */
export const MIN_CAPABILITY_VERSION = 113

/** From here on a streaming map request is read-only, and host facts come by lite updates. */
export const CAPVER_READ_ONLY_STREAM = 68
/** The client understands the early payload of the Noise channel. */
export const CAPVER_EARLY_PAYLOAD = 49
/** `Node.HomeDERP` instead of `Node.DERP`. */
export const CAPVER_HOME_DERP = 111
/** `AllowedIPs: null` means `Addresses`. */
export const CAPVER_NIL_ALLOWED_IPS = 112
/** Certificate pins (`sha256-raw:`) of relays; 1.80 fails with them (1.82 is 115). */
export const CAPVER_CERT_PIN = 115
/** `DisplayMessages` instead of `Health`. */
export const CAPVER_DISPLAY_MESSAGES = 117
/** The client understands 429 with `Retry-After` as answer to a registration. */
export const CAPVER_REGISTER_429 = 137

const RELEASES: readonly (readonly [version: number, release: string])[] = [
  [68, '1.48'], [74, '1.50'], [79, '1.52'], [82, '1.56'], [85, '1.58'], [87, '1.60'], [88, '1.62'], [90, '1.64'], [95, '1.66'],
  [97, '1.68'], [102, '1.70'], [104, '1.72'], [106, '1.74'], [109, '1.78'], [113, '1.80'], [115, '1.82'], [116, '1.84'], [123, '1.86'],
  [125, '1.88'], [130, '1.90'], [131, '1.92'], [133, '1.96'], [138, '1.98'], [142, '1.102'],
] // prettier-ignore

/** The first release that speaks a capability version, for messages to people (juanfont/headscale:hscontrol/capver). */
export function releaseOfCapabilityVersion(version: number): string {
  let release = 'before 1.48'
  for (const [first, name] of RELEASES) if (version >= first) release = name
  return release
}
