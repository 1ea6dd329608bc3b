const MAX_LABEL = 63
const LOCAL_SUFFIXES = ['.local', '.localdomain', '.lan']

/**
 * The DNS label that a host name stands for, after the rules of tailscale/tailscale:util/dnsname: common local suffixes fall away,
 * letters become small, dots, blanks, `_` and `@` become hyphens, all else vanishes, and it starts and ends with a letter or digit.
 * `node` when nothing is left.
 */
export function sanitizeHostname(hostname: string): string {
  let text = hostname
  for (const suffix of LOCAL_SUFFIXES) {
    if (text.toLowerCase().endsWith(suffix)) {
      text = text.slice(0, -suffix.length)
      break
    }
  }
  let label = ''
  for (const char of text.toLowerCase()) {
    if (/[a-z0-9-]/.test(char)) label += char
    else if (/[ ._@]/.test(char)) label += '-'
  }
  label = label.replace(/^-+/, '').slice(0, MAX_LABEL).replace(/-+$/, '')
  return label === '' ? 'node' : label
}

/** A label that is free: the wanted one, or with the first free of `-1`, `-2`, ... @param taken asks whether another node has it */
export function freeLabel(wanted: string, taken: (label: string) => boolean): string {
  if (!taken(wanted)) return wanted
  for (let suffix = 1; ; suffix += 1) {
    const tail = `-${suffix}`
    const label = wanted.slice(0, MAX_LABEL - tail.length).replace(/-+$/, '') + tail
    if (!taken(label)) return label
  }
}

/** Why a text cannot be a node's DNS label, or `undefined` when it can. */
export function labelProblem(label: string): string | undefined {
  if (label.length === 0) return 'a name must not be empty'
  if (label.length > MAX_LABEL) return `a name has at most ${MAX_LABEL} characters, this one has ${label.length}`
  if (!/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(label)) return `"${label}" may hold only a-z, 0-9 and hyphens, and starts and ends with a letter or digit`
  return undefined
}

/** The full name of a node, with its trailing dot. */
export function nodeFqdn(label: string, baseDomain: string): string {
  return `${label}.${baseDomain}.`
}
