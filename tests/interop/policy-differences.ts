/** One way in which a policy and headscale's judgement of it were met. */
export interface Judged {
  readonly weAccept: boolean
  /** Message of our first diagnostic; '' when we accept. */
  readonly ours: string
  /** What headscale said; '' when it accepts. */
  readonly theirs: string
}

/** Why headscale and Tailscale judge otherwise; who is stricter, and how to tell. */
export interface Cause {
  readonly title: string
  readonly stricter: 'headscale' | 'ours'
  /** Matches headscale's words where it is stricter, our message where we are. */
  readonly says: RegExp
  readonly why: string
}

/** Every difference between `headscale policy check` and ours that was ever met. The first cause that fits is the one. */
export const CAUSES: readonly Cause[] = [
  {
    title: 'Features that headscale lacks',
    stricter: 'headscale',
    says: /does not yet support|requires the IP allocator|not support(?:ed)? (?:this autogroup|for|in headscale)|invalid autogroup|autogroup not supported|target alias type is not supported|unknown field: "(?:ipsets|postures|defaultSrcPosture|srcPosture|srcPostureAttrs|derpMap|disableIPv4|OneCGNATRoute|oneCGNATRoute|services|recorder|enforceRecorder|attrs?|app|sshTests)"/i,
    why: 'Role autogroups, `autogroup:shared`, ipsets, postures, `funnel`, `ipPool`, relay maps: Tailscale has them, and so have we.',
  },
  {
    title: 'White space around names',
    stricter: 'headscale',
    says: /"(?:\\u00a0|\\n|[\s\u00a0])[^"]*"|"[^"]*(?:\\u00a0|\\n|[\s\u00a0])"/,
    why: 'Tailscale trims names before it looks them up (captured); headscale does so in some places only.',
  },
  { title: '`null` for a list of members', stricter: 'headscale', says: /got <nil>/, why: 'A list that is `null` is as if absent.' },
  {
    title: 'Autogroups that own tags or approve routes',
    stricter: 'headscale',
    says: /invalid (?:owner|auto approver) format: "autogroup:/,
    why: '`autogroup:member`, `autogroup:tagged` and roles may own tags and approve routes.',
  },
  { title: 'Unknown users', stricter: 'headscale', says: /user not found/, why: 'A login that no user of the tailnet has stands for nobody; it may sign up tomorrow.' },
  {
    title: 'Names of protocols',
    stricter: 'headscale',
    says: /invalid protocol number: "(?:icmpv4|icmpv6|dccp|tsmp|tcp|udp|icmp|sctp|gre|esp|ah|igmp|igp|egp|ipv4|ip-in-ip|ipv6-icmp)"/i,
    why: "Tailscale's own parser takes these names, in any case.",
  },
  { title: '`autogroup:members`', stricter: 'headscale', says: /autogroup:members/, why: 'The old name of `autogroup:member`.' },
  { title: 'Old names of members', stricter: 'headscale', says: /unknown field: "(?:users|ports|user|allow)"/i, why: '`users`, `ports`, `user` and `allow` are the old names of `src`, `dst`, `src` and `accept`.' },
  { title: 'Prefix forms of names', stricter: 'headscale', says: /"(?:host|svc|ipset|user):/, why: '`host:`, `svc:`, `ipset:` and `user:*@domain` are names of Tailscale that headscale does not know.' },
  { title: '`checkPeriod` of an accepting rule', stricter: 'headscale', says: /checkPeriod is only valid with action/, why: 'It means nothing there and harms nobody.' },
  { title: 'Domains of other tailnets', stricter: 'ours', says: /is not associated with this Tailnet/, why: 'Headscale has no notion of the domains of a tailnet; Tailscale refuses (captured).' },
  { title: 'A policy that is no object', stricter: 'ours', says: /^a policy must be an object/, why: 'Headscale takes `null` and an empty file for no policy at all, which allows everything.' },
  { title: '`user:*@domain` where one user must be named', stricter: 'ours', says: /"user:\*@/, why: 'Headscale takes whatever holds `@` for the login of a user.' },
  { title: 'Names that hold `@`', stricter: 'ours', says: /"localpart:|not found: "(?:tag|group|autogroup|ipset|svc):[^"]*@|unknown autogroup: "[^"]*@|"[^"]*@[^"]*": (?:invalid|group members|not a user)|names must start with|names can only contain/, why: 'Headscale takes whatever holds `@` for the login of a user; prefixes come first, as names of synced groups hold `@`.' },
  { title: 'An entry of `acls` without `action`', stricter: 'ours', says: /^action="" is not supported/, why: 'Doubt is refusal: "accept" is one word. The diagnostic brings the repair.' },
  { title: 'Capability names without a domain', stricter: 'ours', says: /^capability name must have the form/, why: 'Tailscale asks for `domain/path` (captured); headscale looks for `://` only.' },
  { title: 'A route without a prefix', stricter: 'ours', says: /^autoApprovers\.routes\[""\]/, why: 'Headscale reads an empty name as an empty prefix, which approves nothing.' },
  { title: 'Both names of one thing', stricter: 'ours', says: /^only one of|^cannot use both/, why: 'One of the two would be ignored without a word.' },
]

/** The cause of a difference; `undefined` when there is none that we know. */
export function causeOf({ weAccept, ours, theirs }: Judged): Cause | undefined {
  return CAUSES.find(({ stricter, says }) => (stricter === 'headscale' ? weAccept && says.test(theirs) : !weAccept && says.test(ours)))
}

/** The table of docs/policy-differences.md. */
export function causesTable(): string {
  const rows = CAUSES.map(({ title, stricter, why }) => `| ${title} | ${stricter === 'ours' ? 'we' : 'headscale'} | ${why} |`)
  return ['| what | who refuses | why |', '|---|---|---|', ...rows, ''].join('\n')
}
