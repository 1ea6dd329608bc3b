export type { CapGrant, FilterRule, NetPortRange, PortRange } from './filter-rule.ts'
export { parseFilterRules, type FilterProblem, type ParsedFilterRules } from './parse-rules.ts'
export {
  DEFAULT_PROTOCOLS,
  readAddresses,
  readFilterRule,
  type ReadAddresses,
  type RuleCapability,
  type RuleDestination,
  type RuleMeaning,
} from './rule-meaning.ts'
export { PacketFilter, type Explanation, type FilterCounters, type PacketFilterOptions } from './filter.ts'
export type { CapsOf } from './matcher.ts'
export type { AcceptReason, DropReason, Verdict } from './verdict.ts'
