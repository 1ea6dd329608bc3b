/** Wrong usage: told in one line, exit status 2. */
export class UsageError extends Error {}

/** What is known of a command: its help, and the options that it takes besides `--json` and `--help`. */
export interface CommandUsage {
  readonly synopsis: string
  readonly summary: string
  readonly options: readonly OptionName[]
  readonly help: string
}

/** Every option with a value or without. */
export const OPTIONS = {
  policy: { type: 'string', short: 'p' },
  inventory: { type: 'string', short: 'i' },
  format: { type: 'string' },
  proto: { type: 'string' },
  as: { type: 'string' },
  check: { type: 'boolean' },
  write: { type: 'boolean', short: 'w' },
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean' },
} as const

/** The name of an option. */
export type OptionName = keyof typeof OPTIONS

/** The policy where none is named. */
export const DEFAULT_POLICY = 'policy.hujson'

const INVENTORY_HELP = `An inventory says who and what is in the tailnet. It is the output of 'tailscale status --json' or of
'headscale nodes list -o json', or our own JSON:
  {"users": [{"id": 1, "login": "alice@example.com", "role": "owner"}],
   "nodes": [{"id": 1, "name": "laptop", "user": "alice@example.com", "addresses": ["100.64.0.1"],
              "tags": [], "approvedRoutes": [], "attributes": {"node:os": "linux"}}],
   "domains": ["example.com"]}
'-' reads it, or a policy, from standard input.`

/** The name of a command. */
export type CommandName = 'check' | 'test' | 'explain' | 'diff' | 'preview' | 'fmt' | 'schema'

/** All commands, in the order of the help. */
export const COMMANDS: Readonly<Record<CommandName, CommandUsage>> = {
  check: {
    synopsis: 'check FILE... [-i INV] [--format text|json|github]',
    summary: 'what is wrong with a policy: every problem, with its place',
    options: ['inventory', 'format'],
    help: `Reads each policy whole and tells every problem with its line and column, and how to mend it. With an inventory
it also runs the policy's own tests. --format github writes annotations for a workflow on GitHub.
Status 1 when there is any problem.`,
  },
  test: {
    synopsis: 'test FILE -i INV',
    summary: "run the policy's tests; what no test exercises",
    options: ['inventory'],
    help: `Runs tests and sshTests of the policy and tells why each failure failed. Lists the statements that no test
exercises: they could be removed, and every test would still pass. Status 1 when a test fails.`,
  },
  explain: {
    synopsis: 'explain [FILE] SRC DST[:PORT] [-i INV] [--proto P] [-p FILE]',
    summary: 'whether SRC may reach DST, and why',
    options: ['policy', 'inventory', 'proto'],
    help: `SRC and DST are a node's name, an address, or a user, group, tag, host or autogroup of the policy. Every pair of
their addresses is judged by itself. PORT is 80 where none is given, or every port for protocols without; PROTO is
tcp, a name, or a number. A yes shows every statement that contributes, and through which names; a no the nearest
statements and what each lacks. Without an inventory each user and tag that the policy names has one device.
Status 0 when every pair is allowed, else 1.`,
  },
  diff: {
    synopsis: 'diff OLD NEW -i INV',
    summary: 'access gained and lost by people and machines, as Markdown',
    options: ['inventory'],
    help: `Compares what two policies allow in the same tailnet: what people (by login) and machines (by tag) gain and lose, as
Markdown for a pull request; or the proof that nothing changed. Status 0, or 1 when a policy is refused.`,
  },
  preview: {
    synopsis: 'preview [FILE] --as NODE -i INV [-p FILE]',
    summary: 'what a node would receive',
    options: ['policy', 'inventory', 'as'],
    help: `Shows a node's packet filter, its peers with their routes, its SSH rules and its attributes as the policy makes them.
--json gives the rules in wire form.`,
  },
  fmt: {
    synopsis: 'fmt FILE... [--check | --write]',
    summary: "lay a policy out, as Tailscale's own editor does",
    options: ['check', 'write'],
    help: `Prints the policy in its canonical layout; --write replaces the file (whole or not at all), --check only tells
whether it would change (status 1). Comments stay.`,
  },
  schema: {
    synopsis: 'schema',
    summary: 'a JSON schema of policies, for editors',
    options: [],
    help: `Prints a JSON schema (draft-07) made from the tables that the policy is read by. In VS Code, for example:
  "json.schemas": [{"fileMatch": ["policy.hujson"], "url": "./policy.schema.json"}],
  "files.associations": {"*.hujson": "jsonc"}`,
  },
}

/** True for the name of a command. */
export function isCommand(name: string): name is CommandName {
  return Object.hasOwn(COMMANDS, name)
}

/** The help for everything, or for one command. */
export function helpFor(name: CommandName | undefined): string {
  if (name !== undefined) {
    const { synopsis, help, options } = COMMANDS[name]
    const inventory = options.some((option) => option === 'inventory') ? `\n\n${INVENTORY_HELP}` : ''
    return `usage: meshwright-policy ${synopsis} [--json]\n\n${help}${inventory}\n`
  }
  const width = Math.max(...Object.values(COMMANDS).map(({ synopsis }) => synopsis.length))
  const lines = Object.values(COMMANDS).map(({ synopsis, summary }) => `  ${synopsis.padEnd(width)}  ${summary}`)
  return `usage: meshwright-policy COMMAND [options] [--json]

${lines.join('\n')}

'meshwright-policy help COMMAND' tells more. --json prints one JSON value for programs.

${INVENTORY_HELP}

Exit status: 0 good, 1 refused (for explain: not allowed), 2 wrong usage.
`
}
