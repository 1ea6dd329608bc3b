export type { CapGrant, FilterRule, NetPortRange, PortRange } from './filter-rule.ts'
