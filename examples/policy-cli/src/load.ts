import {
  addressesNamed,
  checkPolicy,
  type CompiledPolicy,
  compilePolicy,
  type Diagnostic,
  parsePolicy,
  type Policy,
  type TailnetNode,
  type TailnetUser,
  type TailnetView,
} from '@meshwright/policy'
import { parseIp } from '@meshwright/ip'
import { nameOf, readBytes } from './files.ts'
import { readInventory } from './inventory.ts'
import { type Options, type Outcome, PLAIN, type Style } from './outcome.ts'
import { UsageError } from './usage.ts'

/** All that is wrong with a policy; with an inventory, what only a tailnet shows too. */
export async function diagnosticsOf(file: string | undefined, tailnet: TailnetView | undefined): Promise<readonly Diagnostic[]> {
  const { policy, diagnostics } = parsePolicy(await readBytes(file))
  return policy === undefined || tailnet === undefined ? diagnostics : checkPolicy(policy, tailnet, Date.now())
}

/** A policy looked up in the tailnet of the inventory, or the outcome that it is refused. @throws UsageError without an inventory */
export async function compile(file: string | undefined, options: Options): Promise<CompiledPolicy | Outcome> {
  if (options.inventory === undefined) throw new UsageError('--inventory INV is missing: who and what is in the tailnet')
  if (options.inventory === '-' && file === '-') throw new UsageError('the policy and the inventory cannot both be standard input')
  const policy = await read(file, options)
  return 'lines' in policy ? policy : compilePolicy(policy, await readInventory(options.inventory))
}

/** As {@link compile}; without an inventory, for a tailnet in which each user and tag that the policy or `names` name has one device. */
export async function compileOrImagine(
  file: string | undefined,
  names: readonly string[],
  options: Options,
): Promise<{ readonly compiled: CompiledPolicy; readonly imagined: boolean } | Outcome> {
  if (options.inventory !== undefined) {
    const compiled = await compile(file, options)
    return 'lines' in compiled ? compiled : { compiled, imagined: false }
  }
  const policy = await read(file, options)
  if ('lines' in policy) return policy
  return { compiled: compilePolicy(policy, imagine(policy, names)), imagined: true }
}

/** The addresses of a name, or the complaint that it means none. @throws UsageError */
export function named(compiled: CompiledPolicy, name: string): ReturnType<typeof addressesNamed> {
  const addresses = addressesNamed(compiled, name)
  if (addresses.length === 0) throw new UsageError(`${name}: no node, address or name of the policy, or it has no nodes`)
  return addresses
}

/** A problem in one line. */
export function toText(file: string | undefined, { line, column, message, remedy }: Diagnostic, { strong, faint }: Style = PLAIN): string {
  return `${strong(`${nameOf(file)}:${line}:${column}:`)} ${message}${remedy === undefined ? '' : ` ${faint(`(${remedy})`)}`}`
}

async function read(file: string | undefined, options: Options): Promise<Policy | Outcome> {
  const { policy, diagnostics } = parsePolicy(await readBytes(file))
  if (policy !== undefined) return policy
  return { status: 1, lines: diagnostics.map((problem) => toText(file, problem, options.style)), json: { ok: false, diagnostics } }
}

/** Every user and every tag with one device each. */
function imagine(policy: Policy, names: readonly string[]): TailnetView {
  const aliases = [
    ...policy.statements.flatMap(({ sources, destinations }) => [...sources, ...destinations]),
    ...policy.ssh.flatMap(({ sources, destinations }) => [...sources, ...destinations]),
    ...[...policy.tagOwners.values()].flatMap(({ value }) => value),
  ].flatMap(({ alias }) => (alias.kind === 'user' ? [alias.text] : []))
  const members = [...policy.groups.values()].flatMap(({ value }) => value.map((member) => member.value))
  const tested = [...policy.tests, ...policy.sshTests].map(({ src }) => src)
  const logins = [...new Set([...members, ...aliases, ...tested, ...names])].filter((name) => name.includes('@') && !/^(?:group|tag|autogroup|ipset|svc|host|user):/.test(name))
  const users = logins.map((login, i): TailnetUser => ({ id: i + 1, login: login.endsWith('@') ? login.slice(0, -1) : login, role: i === 0 ? 'owner' : 'member' }))
  const owners = [...users.map(({ id, login }) => ({ name: login, user: id, tags: [] })), ...[...policy.tagOwners.keys()].map((tag) => ({ name: tag, tags: [tag] }))]
  const nodes = owners.map((owner, i): TailnetNode => {
    const addresses = [`100.64.${(i + 1) >> 8}.${(i + 1) & 255}`, `fd7a:115c:a1e0::${(i + 1).toString(16)}`].flatMap((text) => parseIp(text) ?? [])
    return { id: i + 1, ...owner, addresses, advertisedRoutes: [], approvedRoutes: [], created: i }
  })
  const domains = [...new Set(logins.flatMap((login) => login.split('@').at(-1) || []))]
  return { users, nodes, domains }
}
