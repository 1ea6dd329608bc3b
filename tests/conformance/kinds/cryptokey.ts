import { readFile } from 'node:fs/promises'
import { CryptokeyRouter } from '@meshwright/cryptokey-router'
import { formatPrefix, type Ip, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

type Op =
  | { readonly op: 'insert'; readonly prefix: string; readonly peer: string }
  | { readonly op: 'remove'; readonly prefix: string; readonly peer: string; readonly removed: boolean }
  | { readonly op: 'remove_peer'; readonly peer: string }
  | { readonly op: 'lookup'; readonly address: string; readonly expect: string | null }
  | { readonly op: 'list'; readonly peer: string; readonly expect: readonly string[] }
  | { readonly op: 'assert_empty' }

interface Scenario {
  readonly name: string
  readonly ops: readonly Op[]
}

/** Scripted operations on the table of allowed IPs, each with the answer of a linear scan. Every operation is a case. */
export const kind: Kind = {
  name: 'cryptokey',
  defaultPath: 'vectors/allowedips.json',
  copied: true,
  async run(location: string): Promise<readonly CaseResult[]> {
    const data = await readJson(location)
    const scenarios = data?.scenarios
    if (scenarios === undefined || !Array.isArray(scenarios)) throw new UnknownForm(location, 'an object with "scenarios", each of "ops"')
    return scenarios.flatMap((scenario: Scenario) => {
      const router = new CryptokeyRouter<string>()
      return scenario.ops.map((op: Op, index: number) => {
        const detail = perform(router, op)
        return { group: scenario.name, id: `${scenario.name}#${index}`, passed: detail === undefined, ...(detail === undefined ? {} : { detail }) }
      })
    })
  },
}

function perform(router: CryptokeyRouter<string>, op: Op): string | undefined {
  switch (op.op) {
    case 'insert':
      router.insert(prefix(op.prefix), op.peer)
      return undefined
    case 'remove':
      return compare(router.remove(prefix(op.prefix), op.peer), op.removed)
    case 'remove_peer':
      router.removePeer(op.peer)
      return router.list(op.peer).length === 0 ? undefined : 'the peer still owns prefixes'
    case 'lookup':
      return compare(router.peerForIp(address(op.address)) ?? null, op.expect)
    case 'list':
      return compare(router.list(op.peer).map(formatPrefix).sort(), [...op.expect].sort())
    case 'assert_empty':
      return compare(router.size, 0)
    default:
      return `unknown operation ${JSON.stringify(op)}`
  }
}

function compare(actual: unknown, expected: unknown): string | undefined {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  return a === b ? undefined : `gave ${a}, expected ${b}`
}

function prefix(text: string): Prefix {
  const parsed = parsePrefix(text)
  if (parsed === undefined) throw new Error(`not a prefix: ${text}`)
  return parsed
}

function address(text: string): Ip {
  const parsed = parseIp(text)
  if (parsed === undefined) throw new Error(`not an address: ${text}`)
  return parsed
}

async function readJson(location: string): Promise<{ readonly scenarios?: readonly Scenario[] } | undefined> {
  try {
    return JSON.parse(await readFile(location, 'utf8')) as { readonly scenarios?: readonly Scenario[] }
  } catch (error) {
    throw new UnknownForm(location, `a JSON file (${error instanceof Error ? error.message : String(error)})`)
  }
}
