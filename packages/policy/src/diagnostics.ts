/** Where something stands in the policy text. */
export interface Place {
  /** From 1. */
  readonly line: number
  /** From 1, in bytes since the last line feed. */
  readonly column: number
  /** Byte offset from the start of the text. */
  readonly offset: number
  /** JSON pointer (RFC 6901) to it. */
  readonly path: string
}

/** A value and where it stands. */
export interface Located<T> {
  readonly value: T
  readonly at: Place
}

/** What kind of problem a diagnostic reports: stable, for programs. */
export type DiagnosticCode =
  | 'POLICY_SYNTAX'
  | 'POLICY_SHAPE'
  | 'POLICY_UNKNOWN_FIELD'
  | 'POLICY_DUPLICATE_FIELD'
  | 'POLICY_GROUP'
  | 'POLICY_HOST'
  | 'POLICY_TAG_OWNER'
  | 'POLICY_IPSET'
  | 'POLICY_POSTURE'
  | 'POLICY_ACTION'
  | 'POLICY_SOURCE'
  | 'POLICY_DESTINATION'
  | 'POLICY_PORTS'
  | 'POLICY_PROTOCOL'
  | 'POLICY_CAPABILITY'
  | 'POLICY_VIA'
  | 'POLICY_SSH'
  | 'POLICY_NODE_ATTRIBUTE'
  | 'POLICY_IP_POOL'
  | 'POLICY_AUTO_APPROVER'
  | 'POLICY_SETTING'
  | 'POLICY_DOMAIN'
  | 'POLICY_TEST_SHAPE'
  | 'POLICY_TEST_FAILED'

/** One operation of a JSON patch (RFC 6902) that repairs the policy: give a list of them to `patchHuJson`. */
export interface Repair {
  readonly op: 'add' | 'remove' | 'replace' | 'move'
  readonly path: string
  readonly value?: unknown
  /** Of `move`. */
  readonly from?: string
}

/** One reason to refuse a policy. */
export interface Diagnostic extends Place {
  readonly code: DiagnosticCode
  /** Exactly the hosted service's text where that is known. */
  readonly message: string
  /** What to do about it, in one sentence. */
  readonly remedy?: string
  /** A change that removes the problem, where there is only one sensible. */
  readonly fix?: readonly Repair[]
}

/** What a check knows about a problem besides its place. */
export interface Problem {
  readonly remedy?: string
  readonly fix?: readonly Repair[]
}

/** How many wrong names get a suggestion. */
const MOST_GUESSES = 20
/** How many pairs of characters are compared for all suggestions together. */
const MOST_COMPARISONS = 1_000_000

/** How many problems are told; nobody reads more, and a hostile text must not fill the memory. */
const MOST_DIAGNOSTICS = 10_001

/** Collects diagnostics in the order in which they are found. */
export class Reporter {
  readonly #found: Diagnostic[] = []
  #guesses: number = MOST_GUESSES
  readonly #budget: { left: number } = { left: MOST_COMPARISONS }

  /** All problems so far. */
  get diagnostics(): readonly Diagnostic[] {
    return this.#found
  }

  /** The nearest known name, for the first problems only: a hostile text must not buy time with wrong names. */
  guess(name: string, known: Iterable<string>): string | undefined {
    if (this.#guesses === 0) return undefined
    this.#guesses -= 1
    return nearest(name, known, this.#budget)
  }

  /** Adds one. */
  report(at: Place, code: DiagnosticCode, message: string, problem: Problem = {}): void {
    if (this.#found.length >= MOST_DIAGNOSTICS) return
    if (this.#found.length === MOST_DIAGNOSTICS - 1)
      this.#found.push({ ...at, code, message: `more than ${MOST_DIAGNOSTICS - 1} problems`, remedy: 'Repair these first.' })
    else this.#found.push({ ...at, code, message, ...problem })
  }
}

/** Escapes one part of a JSON pointer. */
export function pointerPart(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}

/** The nearest of some names to a wrong one, when it is near enough to be meant. */
export function nearest(name: string, known: Iterable<string>, budget: { left: number } = { left: MOST_COMPARISONS }): string | undefined {
  let best: string | undefined
  let least = Math.max(1, Math.floor(name.length / 3)) + 1
  if (name.length > 64) return undefined
  for (const candidate of known) {
    if (budget.left <= 0) break
    budget.left -= 1
    if (Math.abs(candidate.length - name.length) >= least) continue
    budget.left -= name.length * candidate.length
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance < least) {
      least = distance
      best = candidate
    }
  }
  return best
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a.charAt(i - 1) === b.charAt(j - 1) ? 0 : 1)
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
