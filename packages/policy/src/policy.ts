import type { Prefix } from '@meshwright/ip'
import type { PortRange } from '@meshwright/packet-filter'
import type { Alias } from './aliases.ts'
import type { Located, Place } from './diagnostics.ts'
import type { Assertion } from './posture.ts'

/** A policy that was read without a problem. Names are resolved only when it is compiled for a tailnet. */
export interface Policy {
  /** By full name, `group:x`; members are logins. */
  readonly groups: ReadonlyMap<string, Definition<readonly Located<string>[]>>
  readonly hosts: ReadonlyMap<string, Definition<Prefix>>
  /** By tag, `tag:x`. Owners are users, groups, autogroups and tags. */
  readonly tagOwners: ReadonlyMap<string, Definition<readonly LocatedAlias[]>>
  /** By full name, `ipset:x`. */
  readonly ipsets: ReadonlyMap<string, Definition<readonly IpsetStep[]>>
  /** By full name, `posture:x`; all assertions must hold. */
  readonly postures: ReadonlyMap<string, Definition<readonly Assertion[]>>
  /** Postures of statements that name none. */
  readonly defaultSrcPosture: readonly string[]
  /** Grants, then acls, each in the order of the file; one that allows everything when the file has neither section. */
  readonly statements: readonly Statement[]
  readonly ssh: readonly SshRule[]
  readonly nodeAttrs: readonly NodeAttribute[]
  readonly autoApprovers: AutoApprovers
  readonly tests: readonly PolicyTest[]
  readonly sshTests: readonly SshTest[]
  readonly settings: PolicySettings
}

/** Something with a name, and where it stands. */
export interface Definition<T> {
  readonly name: string
  readonly at: Place
  readonly value: T
}

/** An alias, and where it stands. */
export interface LocatedAlias {
  readonly alias: Alias
  readonly at: Place
}

/** One line of an ipset. */
export interface IpsetStep {
  readonly add: boolean
  readonly target: Alias
  readonly at: Place
}

/** A destination with its ports. `ports[i]` belong to protocol `i` of the statement. */
export interface Destination extends LocatedAlias {
  readonly ports: readonly (readonly PortRange[])[]
}

/** An app capability and its values, passed through unread. */
export interface AppCapability {
  readonly name: string
  readonly values: readonly unknown[] | null
}

/** A grant or an entry of acls. Statements only allow; their order never changes what is allowed. */
export interface Statement {
  readonly kind: 'grant' | 'acl' | 'implicit'
  readonly at: Place
  readonly sources: readonly LocatedAlias[]
  readonly destinations: readonly Destination[]
  /** Each yields a rule of its own; `undefined` means TCP, UDP and ICMP. Empty when a grant has no `ip`. */
  readonly protocols: readonly (number | undefined)[]
  /** In the order of the file; empty for acls. */
  readonly app: readonly AppCapability[]
  /** Tags of the routers that the traffic must take; empty: any. */
  readonly via: readonly LocatedAlias[]
  /** Names of postures, any of which a source must meet; `undefined`: the default ones. */
  readonly srcPosture: readonly string[] | undefined
}

/** An entry of ssh. */
export interface SshRule {
  readonly at: Place
  readonly action: 'accept' | 'check'
  readonly sources: readonly LocatedAlias[]
  readonly destinations: readonly LocatedAlias[]
  /** Login names, `autogroup:nonroot`, `localpart:*@domain`. */
  readonly users: readonly Located<string>[]
  /** How long a check stands, in milliseconds; `'always'` asks every time. */
  readonly checkPeriodMs: number | 'always'
  readonly acceptEnv: readonly string[]
  readonly recorder: readonly LocatedAlias[]
  readonly enforceRecorder: boolean
  readonly srcPosture: readonly string[] | undefined
}

/** An entry of nodeAttrs. */
export interface NodeAttribute {
  readonly at: Place
  readonly targets: readonly LocatedAlias[]
  readonly attributes: readonly string[]
  readonly app: readonly AppCapability[]
  /** Where new nodes of the targets get their IPv4 address from. */
  readonly ipPool: readonly Prefix[]
}

/** Who may approve what a node advertises. */
export interface AutoApprovers {
  readonly routes: readonly { readonly prefix: Prefix; readonly approvers: readonly LocatedAlias[] }[]
  readonly exitNode: readonly LocatedAlias[]
  readonly services: readonly { readonly service: string; readonly approvers: readonly LocatedAlias[] }[]
}

/** An entry of tests, unread: what is wrong with it counts as a failed test. */
export interface PolicyTest {
  readonly at: Place
  readonly src: string
  readonly proto: string | undefined
  readonly accept: readonly Located<string>[]
  readonly deny: readonly Located<string>[]
  readonly srcPostureAttrs: ReadonlyMap<string, string | number | boolean>
}

/** An entry of sshTests. */
export interface SshTest {
  readonly at: Place
  readonly src: string
  readonly dst: readonly Located<string>[]
  readonly accept: readonly string[]
  readonly check: readonly string[]
  readonly deny: readonly string[]
  readonly srcPostureAttrs: ReadonlyMap<string, string | number | boolean>
}

/** Settings of the tailnet that stand in the policy. */
export interface PolicySettings {
  /** Passed through unread. */
  readonly derpMap: unknown
  readonly disableIPv4: boolean
  readonly oneCgnatRoute: '' | 'mac-always' | 'mac-never'
  readonly randomizeClientPort: boolean
  /** Passed through unread. */
  readonly services: unknown
}
