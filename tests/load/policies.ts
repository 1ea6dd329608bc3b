import type { LoadPolicy } from './servers.ts'

/** The policies that servers are measured under. */
export type PolicyKind = 'allow-all' | 'groups'

const GROUPS = 20
const RULES = 100

/** The policy, and whether a node of one user sees a node of another. */
export function loadPolicy(kind: PolicyKind): LoadPolicy & { readonly sees: (user: number, other: number) => boolean } {
  if (kind === 'allow-all') {
    return { users: 1, text: JSON.stringify({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*'] }] }), sees: () => true }
  }
  // A user a group; every group reaches five others, in rules of different ports, so that nothing of them can be merged.
  const group = (i: number): string => `group:g${i % GROUPS}`
  const rules = Array.from({ length: RULES }, (_, i) => ({ from: i % GROUPS, to: (i + 1 + 3 * Math.floor(i / GROUPS)) % GROUPS, port: 1_000 + i }))
  const pairs = new Set(rules.flatMap(({ from, to }) => [`${from} ${to}`, `${to} ${from}`]))
  const text = JSON.stringify({
    groups: Object.fromEntries(Array.from({ length: GROUPS }, (_, i) => [group(i), [`u${i}@`]])),
    acls: rules.map(({ from, to, port }) => ({ action: 'accept', proto: 'tcp', src: [group(from)], dst: [`${group(to)}:${port}`] })),
  })
  return { users: GROUPS, text, sees: (user, other) => pairs.has(`${user % GROUPS} ${other % GROUPS}`) }
}
