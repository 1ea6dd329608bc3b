import { Decoder, type Item } from './decode.ts'
import { type Diagnostic, Reporter } from './diagnostics.ts'
import { readValue } from './hujson/read.ts'
import { quoteText } from './hujson/quote.ts'
import { packValue } from './hujson/tree.ts'
import { type Definitions } from './names.ts'
import { readAcl, readGrant } from './parse-access.ts'
import { readDefinitions } from './parse-definitions.ts'
import { readAutoApprovers, readNodeAttribute, readSettings, readSshTest, readTest } from './parse-sections.ts'
import { readSshRule } from './parse-ssh.ts'
import type { Policy, Statement } from './policy.ts'
import { ALL_PORTS } from './ports.ts'

/** Sections of a policy. */
export const POLICY_FIELDS = [
  'acls',
  'autoApprovers',
  'defaultSrcPosture',
  'derpMap',
  'disableIPv4',
  'grants',
  'groups',
  'hosts',
  'ipsets',
  'nodeAttrs',
  'oneCGNATRoute',
  'postures',
  'randomizeClientPort',
  'services',
  'ssh',
  'sshTests',
  'tagOwners',
  'tests',
] as const

/** What {@link parsePolicy} gives: a policy, or all that is wrong with the text. */
export interface ParsedPolicy {
  /** Absent when there is any diagnostic: in doubt nothing is compiled. */
  readonly policy?: Policy
  readonly diagnostics: readonly Diagnostic[]
}

/**
 * Reads a policy: HuJSON of at most one object. All problems are reported at once, in the order of the sections (definitions first), with
 * the hosted service's messages where they are known. What can only be judged with a tailnet at hand (domains, tests) is `checkPolicy`'s.
 */
export function parsePolicy(text: string | Uint8Array): ParsedPolicy {
  const { value, error } = readValue(text)
  if (value === undefined) {
    const { message, line, column, offset } = error
    return { diagnostics: [{ code: 'POLICY_SYNTAX', message, line, column, offset, path: '' }] }
  }
  const root: Item = { value, path: '' }
  const reporter = new Reporter()
  const decoder = new Decoder(packValue(root.value), reporter)
  const policy = readPolicy(decoder, root)
  decoder.checkSpelling()
  return reporter.diagnostics.length > 0 ? { diagnostics: reporter.diagnostics } : { policy, diagnostics: [] }
}

function readPolicy(decoder: Decoder, root: Item): Policy {
  if (root.value.trimmed.kind !== 'object') decoder.shape(root, 'a policy must be an object')
  const fields = decoder.fields(root, 'a policy', POLICY_FIELDS)
  const names = readDefinitions(decoder, {
    groups: fields.get('groups'),
    hosts: fields.get('hosts'),
    tagOwners: fields.get('tagOwners'),
    ipsets: fields.get('ipsets'),
    postures: fields.get('postures'),
  })
  const list = (name: (typeof POLICY_FIELDS)[number]): readonly Item[] => decoder.elements(fields.get(name), name) ?? []
  return {
    ...names,
    defaultSrcPosture: readDefaultPosture(decoder, fields.get('defaultSrcPosture'), names),
    statements: readStatements(decoder, root, fields.get('grants'), fields.get('acls'), names),
    ssh: list('ssh').map((item) => readSshRule(decoder, item, names)),
    nodeAttrs: list('nodeAttrs').map((item) => readNodeAttribute(decoder, item, names)),
    autoApprovers: readAutoApprovers(decoder, fields.get('autoApprovers'), names),
    tests: list('tests').map((item) => readTest(decoder, item)),
    sshTests: list('sshTests').map((item) => readSshTest(decoder, item, names)),
    settings: readSettings(decoder, {
      derpMap: fields.get('derpMap'),
      disableIPv4: fields.get('disableIPv4'),
      oneCGNATRoute: fields.get('oneCGNATRoute'),
      randomizeClientPort: fields.get('randomizeClientPort'),
      services: fields.get('services'),
    }),
  }
}

/** Without either section everything is allowed; an empty section allows nothing. */
function readStatements(
  decoder: Decoder,
  root: Item,
  grants: Item | undefined,
  acls: Item | undefined,
  names: Definitions,
): readonly Statement[] {
  const grantItems = decoder.elements(grants, 'grants')
  const aclItems = decoder.elements(acls, 'acls')
  // A section that is null is there, and allows nothing: only a policy that names neither means to allow everything.
  if (grants === undefined && acls === undefined) return [allowAll(decoder, root)]
  return [
    ...(grantItems ?? []).map((item) => readGrant(decoder, item, names)),
    ...(aclItems ?? []).map((item) => readAcl(decoder, item, names)),
  ]
}

function allowAll(decoder: Decoder, root: Item): Statement {
  const at = decoder.placeOf(root)
  const any = { alias: { kind: 'any', text: '*' }, at } as const
  return {
    kind: 'implicit',
    at,
    sources: [any],
    destinations: [{ ...any, ports: [[ALL_PORTS]] }],
    protocols: [undefined],
    app: [],
    via: [],
    srcPosture: undefined,
  }
}

function readDefaultPosture(decoder: Decoder, item: Item | undefined, names: Definitions): readonly string[] {
  return (decoder.strings(item, 'defaultSrcPosture') ?? []).map(({ value, at }) => {
    if (!names.postures.has(value)) decoder.reporter.report(at, 'POLICY_POSTURE', `posture not found: ${quoteText(value)}`)
    return value
  })
}
