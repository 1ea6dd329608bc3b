import { OTHER_AUTOGROUPS, ROLE_AUTOGROUPS } from './aliases.ts'
import type { AliasClass } from './names.ts'
import { ACL_FIELDS, DESTINATIONS, GRANT_FIELDS, SOURCES } from './parse-access.ts'
import { OWNERS } from './parse-definitions.ts'
import { APPROVERS, AUTO_APPROVER_FIELDS, NODE_ATTRIBUTE_FIELDS, SSH_TEST_FIELDS, TARGETS, TEST_FIELDS } from './parse-sections.ts'
import { SSH_DESTINATIONS, SSH_FIELDS, SSH_RECORDERS, SSH_SOURCES } from './parse-ssh.ts'
import { POLICY_FIELDS } from './parse.ts'
import { PROTOCOL_NAMES } from './ports.ts'

/** A JSON schema, or a part of one. */
export type JsonSchema = { readonly [keyword: string]: unknown }

const PREFIXED = '(?:group|tag|autogroup|ipset|svc|host):'
const PORTS = String.raw`(?:\*|[0-9]+(?:-[0-9]+)?)(?:\s*,\s*(?:\*|[0-9]+(?:-[0-9]+)?))*`
const NAME = String.raw`[^\s@*]`

/** What a name of each class looks like, as far as a pattern can tell. */
const PATTERNS: Readonly<Record<AliasClass, string>> = {
  any: String.raw`\*`,
  user: `(?!${PREFIXED})(?!user:)\\S.*@.*`,
  domain: String.raw`user:\*@.+`,
  group: 'group:.+',
  tag: String.raw`tag:[a-zA-Z][a-zA-Z0-9-]*`,
  host: `(?:host:.+|(?!${PREFIXED})${NAME}(?:[^@*]*${NAME})?)`,
  prefix: String.raw`\[?[0-9a-fA-F:.]+\]?(?:/[0-9]{1,3})?`,
  ipset: 'ipset:.+',
  service: 'svc:.+',
  role: `autogroup:(?:${ROLE_AUTOGROUPS.join('|')})`,
  member: 'autogroup:members?',
  tagged: 'autogroup:tagged',
  self: 'autogroup:self',
  internet: 'autogroup:internet',
  shared: 'autogroup:shared',
  'danger-all': 'autogroup:danger-all',
}

/**
 * A JSON schema (draft-07) of policies, for editors: completes and checks names of members and, as far as patterns can, what may stand
 * where. It is made from the tables that the decoder reads by, so both always know the same members and classes of names. What
 * it lets through may still be refused: only {@link parsePolicy} knows whether names are defined. Member names are matched without regard to
 * case, as the decoder does; `null` stands for an absent list.
 */
export function policySchema(): JsonSchema {
  const { definitions, ref, object } = new Definitions()
  const source = list(aliasOf(SOURCES))
  const posture = list({ type: 'string', pattern: '^posture:.' })
  const app = { type: 'object', propertyNames: { pattern: String.raw`^[^/\s]+\.[^/\s]+/\S+$` }, additionalProperties: { type: ['array', 'null'] } }
  const ports = text('Ports, or a protocol and ports.', { pattern: `^\\s*(?:[^:]+:\\s*)?${PORTS}\\s*$`, examples: ['*', '443', 'tcp:22,80', 'udp:53', '8000-8999'] })
  const attributes = { type: ['object', 'null'], additionalProperties: { type: ['string', 'number', 'boolean'] } }
  const acl = object('acl', ACL_FIELDS, {
    action: text('Policies only allow.', { enum: ['accept'] }),
    src: described('Who may connect.', source),
    dst: described('To what: NAME:PORTS.', list(withPorts(DESTINATIONS))),
    proto: protocol(),
    srcPosture: described('Postures, one of which the source must meet.', posture),
    users: described('Old name of src.', source),
    ports: described('Old name of dst.', list(withPorts(DESTINATIONS))),
  }, { '^#': true })
  const grant = object('grant', GRANT_FIELDS, {
    src: described('Who is granted something.', source),
    dst: described('Where.', list(aliasOf(DESTINATIONS))),
    ip: described('Ports that are opened.', list(ports)),
    app: described('Capabilities that are granted, with their values.', app),
    via: described('Tags of the routers that the traffic must take.', list(aliasOf(['tag']))),
    srcPosture: described('Postures, one of which the source must meet.', posture),
  })
  const ssh = object('ssh', SSH_FIELDS, {
    action: text('Whether the user must log in again first.', { enum: ['accept', 'check'] }),
    src: described('Who may log in.', list(aliasOf(SSH_SOURCES))),
    dst: described('Where.', list(aliasOf(SSH_DESTINATIONS))),
    users: described('As which local users.', list({ type: 'string', examples: ['autogroup:nonroot', 'root'] })),
    checkPeriod: text('How long a check stands: a duration, or "always".', { examples: ['12h', 'always'] }),
    acceptEnv: list({ type: 'string' }),
    srcPosture: posture,
    recorder: described('Who records sessions.', list(aliasOf(SSH_RECORDERS))),
    enforceRecorder: { type: ['boolean', 'null'] },
  })
  const attribute = object('nodeAttribute', NODE_ATTRIBUTE_FIELDS, {
    target: list(aliasOf(TARGETS)),
    attr: list({ type: 'string' }),
    app: { type: ['object', 'null'] },
    ipPool: list({ type: 'string' }),
  })
  const approvers = list(aliasOf(APPROVERS))
  const autoApprovers = object('autoApprovers', AUTO_APPROVER_FIELDS, {
    routes: described('Who may approve a route within the given network.', mapOf(approvers)),
    exitNode: approvers,
    services: mapOf(approvers),
  })
  const expectations = list({ type: 'string' })
  const test = object('test', TEST_FIELDS, {
    src: text('Who tries.'),
    srcPostureAttrs: attributes,
    proto: protocol(),
    accept: described('NAME:PORT that must be reachable.', expectations),
    deny: described('NAME:PORT that must not be.', expectations),
    user: text('Old name of src.'),
    allow: described('Old name of accept.', expectations),
  })
  const sshTest = object('sshTest', SSH_TEST_FIELDS, {
    src: text('Who tries.'),
    dst: expectations,
    accept: described('Login names that must be accepted, with or without a check.', expectations),
    check: described('Login names that must be checked.', expectations),
    deny: described('Login names that must be refused.', expectations),
    srcPostureAttrs: attributes,
  })
  const posturesOf = { anyOf: [list({ type: 'string' }), { type: 'object' }] }
  object('policy', POLICY_FIELDS, {
    acls: described('What may connect to what. All entries together allow; none takes away.', list(acl)),
    autoApprovers: described('Who may approve what devices advertise.', autoApprovers),
    defaultSrcPosture: posture,
    derpMap: { type: ['object', 'null'] },
    disableIPv4: { type: ['boolean', 'null'] },
    grants: described('What may connect to what, with ports and capabilities. All entries together allow; none takes away.', list(grant)),
    groups: described('Names of groups of users.', mapOf(list(aliasOf(['user'])), '^\\s*group:.')),
    hosts: described('Names of addresses and networks.', { type: ['object', 'null'], additionalProperties: { type: 'string' } }),
    ipsets: mapOf(list({ type: 'string' }), '^\\s*ipset:.'),
    nodeAttrs: list(attribute),
    oneCGNATRoute: text('How macOS routes the tailnet.', { enum: ['', 'mac-always', 'mac-never'] }),
    postures: mapOf(posturesOf, '^posture:.'),
    randomizeClientPort: { type: ['boolean', 'null'] },
    services: { type: ['object', 'array', 'null'] },
    ssh: described('Who may log in to what by SSH. The first entry that fits decides.', list(ssh)),
    sshTests: list(sshTest),
    tagOwners: described('Who may give devices a tag. An empty list: admins alone.', mapOf(list(aliasOf(OWNERS)), '^\\s*tag:[a-zA-Z][a-zA-Z0-9-]*\\s*$')),
    tests: described('What must be reachable, and what must not. Run on every change.', list(test)),
  })
  return { $schema: 'http://json-schema.org/draft-07/schema#', title: 'Tailnet policy', ...ref('policy'), definitions }
}

/** Collects the objects of the schema under their names. */
class Definitions {
  readonly definitions: Record<string, JsonSchema> = {}

  readonly ref = (name: string): JsonSchema => ({ $ref: `#/definitions/${name}` })

  /** An object with exactly the members of a table, in any case, and those of `more`. */
  readonly object = <Name extends string>(
    name: string,
    fields: readonly Name[],
    members: Readonly<Record<Name, JsonSchema>>,
    more: Readonly<Record<string, unknown>> = {},
  ): JsonSchema => {
    const patternProperties: Record<string, unknown> = { ...more }
    const properties: Record<string, JsonSchema> = {}
    for (const field of fields) {
      properties[field] = members[field]
      patternProperties[`^${anyCase(field)}$`] = { $ref: `#/definitions/${name}/properties/${field}` }
    }
    this.definitions[name] = { type: 'object', properties, patternProperties, additionalProperties: false }
    return this.ref(name)
  }
}

/** A list of something; `null` is as if it were absent. */
function list(items: JsonSchema): JsonSchema {
  return { type: ['array', 'null'], items }
}

function mapOf(values: JsonSchema, names?: string): JsonSchema {
  return { type: ['object', 'null'], ...(names === undefined ? {} : { propertyNames: { pattern: names } }), additionalProperties: values }
}

function text(description: string, more: JsonSchema = {}): JsonSchema {
  // White space around words is ignored by the decoder, and not worth an editor's offer.
  return 'enum' in more && Array.isArray(more['enum'])
    ? { description, anyOf: [{ enum: [...more['enum'], null] }, { type: 'string', pattern: `^\\s*(?:${more['enum'].join('|')})\\s*$` }] }
    : { description, type: ['string', 'null'], ...more }
}

function described(description: string, schema: JsonSchema): JsonSchema {
  return '$ref' in schema ? { description, allOf: [schema] } : { description, ...schema }
}

function aliasOf(classes: readonly AliasClass[]): JsonSchema {
  return { anyOf: [{ enum: offers(classes) }, { type: 'string', pattern: `^\\s*(?:${patternOf(classes)})\\s*$` }] }
}

function withPorts(classes: readonly AliasClass[]): JsonSchema {
  return { anyOf: [{ enum: offers(classes).map((each) => `${each}:*`) }, { type: 'string', pattern: `^\\s*(?:${patternOf(classes)})\\s*:\\s*${PORTS}\\s*$` }] }
}

function patternOf(classes: readonly AliasClass[]): string {
  return classes.map((each) => PATTERNS[each]).join('|')
}

/** What an editor can offer without knowing the policy. */
function offers(classes: readonly AliasClass[]): string[] {
  const roles = classes.includes('role') ? ROLE_AUTOGROUPS.map((role) => `autogroup:${role}`) : []
  const others = OTHER_AUTOGROUPS.filter((autogroup) => classes.includes(autogroup)).map((autogroup) => `autogroup:${autogroup}`)
  return [...(classes.includes('any') ? ['*'] : []), ...others, ...roles]
}

function protocol(): JsonSchema {
  const names = PROTOCOL_NAMES.map(anyCase).join('|')
  return { description: 'An IP protocol, by name or number.', anyOf: [{ enum: [...PROTOCOL_NAMES, '', null] }, { type: 'string', pattern: `^\\s*(?:${names}|[0-9]{1,3}|)\\s*$` }] }
}

function anyCase(text: string): string {
  return text.replaceAll(/[a-zA-Z]/g, (letter) => `[${letter.toLowerCase()}${letter.toUpperCase()}]`)
}
