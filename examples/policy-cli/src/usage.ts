/** Shown for wrong usage and for --help. */
export const USAGE = `usage: meshwright-policy COMMAND [options] [--json]

  check FILE [--inventory INV] [--format text|json|github]   what is wrong with a policy
  test FILE --inventory INV                                  run its tests; what no test exercises
  explain FILE SRC DST[:PORT] --inventory INV [--proto P]    whether SRC may reach DST, and why
  diff OLD NEW --inventory INV                               access gained and lost, as Markdown
  preview FILE --as NODE --inventory INV                     what a node would receive
  fmt FILE [--check | --write]                               lay a policy out

An inventory is our own JSON, the output of 'tailscale status --json', or of 'headscale nodes list -o json'.
Exit status: 0 good, 1 refused, 2 wrong usage.
`

/** Wrong usage: told in one line, exit status 2. */
export class UsageError extends Error {}
