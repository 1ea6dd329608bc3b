/** A value of a device attribute. */
export type PostureValue = string | number | boolean

/** A device attribute of a node. */
export interface NodeAttributeValue {
  readonly value: PostureValue
  /** Milliseconds since 1970; from then on the attribute is not set. */
  readonly expires?: number
}

/** One condition on a device attribute. */
export type Assertion =
  | { readonly key: string; readonly operator: '==' | '!=' | '<' | '<=' | '>' | '>='; readonly value: PostureValue }
  | { readonly key: string; readonly operator: 'IN' | 'NOT IN'; readonly values: readonly PostureValue[] }
  | { readonly key: string; readonly operator: 'IS SET' | 'NOT SET' }

/** Attributes whose values are compared as versions. */
const VERSION_KEYS = new Set(['node:osVersion', 'node:tsVersion'])
const KEY = /^[a-zA-Z][a-zA-Z0-9_-]*:[a-zA-Z0-9_.:/-]+/

/** Reads `key op value`, or a bare key (which must be true); `undefined` for anything else. */
export function parseAssertion(written: string): Assertion | undefined {
  const text = written.trim()
  const key = KEY.exec(text)?.[0]
  if (key === undefined) return undefined
  const rest = text.slice(key.length).trim()
  if (rest === '') return { key, operator: '==', value: true }
  const presence = /^(IS|NOT)\s+SET$/i.exec(rest)
  if (presence !== null) return { key, operator: presence[1]?.toUpperCase() === 'IS' ? 'IS SET' : 'NOT SET' }
  const list = /^(NOT\s+)?IN\s*\[(.*)\]$/is.exec(rest)
  if (list !== null) {
    const values = parseList(list[2] ?? '')
    return values && { key, operator: list[1] === undefined ? 'IN' : 'NOT IN', values }
  }
  const comparison = /^(==|!=|<=|>=|<|>)\s*(.+)$/s.exec(rest)
  const operator = OPERATORS.find((each) => each === comparison?.[1])
  const value = parseOperand(comparison?.[2] ?? '')
  if (operator === undefined || value === undefined) return undefined
  const ordered = operator !== '==' && operator !== '!='
  if (ordered && typeof value !== 'number' && !VERSION_KEYS.has(key)) return undefined
  return { key, operator, value }
}

/** An assertion as it may be written: `node:os == 'linux'`. */
export function formatAssertion(assertion: Assertion): string {
  const quoted = (value: PostureValue): string => (typeof value === 'string' ? `'${value}'` : String(value))
  const start = `${assertion.key} ${assertion.operator}`
  if ('values' in assertion) return `${start} [${assertion.values.map(quoted).join(', ')}]`
  return 'value' in assertion ? `${start} ${quoted(assertion.value)}` : start
}

const OPERATORS = ['==', '!=', '<', '<=', '>', '>='] as const

/** Whether an assertion holds for the attributes. An attribute that is not set fails every operator but `NOT SET`. */
export function assertionHolds(assertion: Assertion, attributeOf: (key: string) => PostureValue | undefined): boolean {
  const actual = attributeOf(assertion.key)
  if (actual === undefined) return assertion.operator === 'NOT SET'
  switch (assertion.operator) {
    case 'IS SET':
      return true
    case 'NOT SET':
      return false
    case 'IN':
      return assertion.values.includes(actual)
    case 'NOT IN':
      return !assertion.values.includes(actual)
    default:
      return compare(assertion.key, actual, assertion.operator, assertion.value)
  }
}

function compare(key: string, actual: PostureValue, operator: (typeof OPERATORS)[number], wanted: PostureValue): boolean {
  const versions = VERSION_KEYS.has(key) && typeof actual === 'string' && typeof wanted !== 'boolean'
  if (!versions && operator === '==') return actual === wanted
  if (!versions && operator === '!=') return actual !== wanted
  const order = versions
    ? compareVersions(actual, String(wanted))
    : typeof actual === 'number' && typeof wanted === 'number'
    ? actual - wanted
    : Number.NaN
  switch (operator) {
    case '==':
      return order === 0
    case '!=':
      return order !== 0
    case '<':
      return order < 0
    case '<=':
      return order <= 0
    case '>':
      return order > 0
    case '>=':
      return order >= 0
  }
}

/** Dotted numbers are compared part by part, missing parts as 0; a part that is no number gives NaN, which no order meets. */
function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((version) => version.split(/[-+ ]/)[0]?.split('.').map(Number) ?? [])
  for (let i = 0; i < Math.max(left?.length ?? 0, right?.length ?? 0); i += 1) {
    const difference = (left?.[i] ?? 0) - (right?.[i] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

function parseList(text: string): readonly PostureValue[] | undefined {
  const values: PostureValue[] = []
  for (let rest = text.trim(); rest !== ''; ) {
    const match = /^('[^']*'|[^,'\s]+)\s*(?:,\s*|$)/.exec(rest)
    const value = parseOperand(match?.[1] ?? '')
    if (match === null || value === undefined) return undefined
    values.push(value)
    rest = rest.slice(match[0].length)
  }
  return values.length === 0 ? undefined : values
}

function parseOperand(text: string): PostureValue | undefined {
  const quoted = /^'([^']*)'$/.exec(text)
  if (quoted !== null) return quoted[1] ?? ''
  if (text === 'true' || text === 'false') return text === 'true'
  return /^-?[0-9]+(?:\.[0-9]+)?$/.test(text) ? Number(text) : undefined
}
