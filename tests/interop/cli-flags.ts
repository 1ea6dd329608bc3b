/** The commands whose flags are compared: every verb that both command lines have, and every verb below one that both have. */
export const COMMANDS: readonly string[] = ['up', 'down', 'set', 'login', 'logout', 'status', 'ping', 'ip', 'whois', 'netcheck', 'version', 'debug', 'debug netmap', 'debug prefs', 'debug derp-map', 'dns', 'dns status', 'dns query', 'exit-node', 'exit-node list', 'exit-node suggest', 'nc', 'metrics', 'metrics print', 'metrics write']

/** Verbs of the usual command line (1.102.5) that ours has not: docs/cli-differences.md says of each what becomes of it on our socket. */
export const VERBS_BESIDE: readonly string[] = ['get', 'whoami', 'switch', 'configure', 'syspolicy', 'ssh', 'funnel', 'serve', 'service', 'web', 'file', 'bugreport', 'cert', 'lock', 'licenses', 'update', 'drive', 'systray', 'appc-routes', 'wait', 'completion']

/** The verbs that a help lists; none where it lists none. */
export function verbsOf(help: string): readonly string[] {
  const listed = /^(?:SUBCOMMANDS|COMMANDS)\n((?: {2}.*(?:\n|$))+)/m.exec(help)?.[1] ?? ''
  return [...listed.matchAll(/^ {2}([a-z][a-z-]*) /gm)].map((match) => match[1] ?? '')
}

const PROFILE = 'profiles of a Go program; Node has its own (--cpu-prof, --heap-prof)'

/** Flags of the usual command line (1.102.5) that ours does not know at all, by `command --flag`, each with its reason. */
export const UNKNOWN: Readonly<Record<string, string>> = {
  'debug --cpu-profile': PROFILE,
  'debug --mem-profile': PROFILE,
  'debug --profile-seconds': PROFILE,
  'debug --file': 'files that nodes send each other: there are none',
}

const SSH = 'sessions are not served by this node'
const QR = 'the login URL is printed as text'
const OF_TAILSCALE = 'a way to log in at the hosted service alone'
const WEB = 'there is no web page: --json has everything'

/** Flags that ours knows and refuses by name unless they are switched off, with the reason. */
export const REFUSED: Readonly<Record<string, string>> = {
  ...Object.fromEntries(['up', 'login'].flatMap((command) => [
    [`${command} --qr`, QR],
    [`${command} --qr-format`, QR],
    ...['--client-id', '--client-secret', '--id-token', '--audience'].map((flag) => [`${command} ${flag}`, OF_TAILSCALE] as const),
  ])),
  ...Object.fromEntries(['up', 'login', 'set'].flatMap((command) => [
    [`${command} --ssh`, SSH],
    [`${command} --advertise-connector`, 'app connectors are configured by the hosted service'],
    [`${command} --report-posture`, 'facts for device posture are not collected'],
  ])),
  'set --relay-server-port': 'UDP peer relays are not served by this node',
  'set --webclient': WEB,
  'status --web': WEB,
  'status --listen': WEB,
  'status --browser': WEB,
  'version --upstream': 'versions are those of the package registry',
  'version --track': 'there is one track',
}

/** The flags that a help names, and those of them that it says are not offered. */
export function flagsOf(help: string): { readonly known: readonly string[]; readonly refused: readonly string[] } {
  const [known, refused]: [string[], string[]] = [[], []]
  for (const line of help.split('\n')) {
    const flag = /^\s+(--[a-z0-9][a-z0-9-]*)/.exec(line)?.[1]
    const last = known.at(-1)
    if (flag !== undefined) known.push(flag)
    else if (last !== undefined && line.includes('(not offered: ')) refused.push(last)
  }
  return { known, refused }
}
