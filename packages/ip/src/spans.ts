/**
 * Sorted, disjoint, never adjoining ranges of whole numbers as two parallel lists: what an `IpSet` holds of one family. Numbers for
 * IPv4, where they are several times faster; bigint for IPv6.
 */
export interface Spans<N extends number | bigint> {
  readonly first: readonly N[]
  readonly last: readonly N[]
}

/** Spans of any ranges in any order; sorts `pairs` in place. @param previous gives the number before */
export function mergeSpans<N extends number | bigint>(pairs: [N, N][], previous: (value: N) => N): Spans<N> {
  pairs.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0))
  const first: N[] = []
  const last: N[] = []
  for (const [from, to] of pairs) {
    const end = last[last.length - 1]
    if (end !== undefined && (from <= end || previous(from) === end)) {
      if (to > end) last[last.length - 1] = to
    } else {
      first.push(from)
      last.push(to)
    }
  }
  return { first, last }
}

/** Index of the last span that begins at or before the value; -1 when there is none. */
export function positionOf<N extends number | bigint>(spans: Spans<N>, value: N): number {
  let low = 0
  let high = spans.first.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const first = spans.first[middle]
    if (first !== undefined && first <= value) low = middle + 1
    else high = middle
  }
  return low - 1
}

/** True when the value lies in a span. */
export function isCovered<N extends number | bigint>(spans: Spans<N>, value: N): boolean {
  const last = spans.last[positionOf(spans, value)]
  return last !== undefined && value <= last
}

/** True when every span of `inner` lies within one of `outer`. */
export function cover<N extends number | bigint>(outer: Spans<N>, inner: Spans<N>): boolean {
  return inner.first.every((first, i) => {
    const last = outer.last[positionOf(outer, first)]
    const end = inner.last[i]
    return last !== undefined && end !== undefined && end <= last
  })
}

/** True when some number lies in both. Linear in the smaller, logarithmic in the larger. */
export function touches<N extends number | bigint>(a: Spans<N>, b: Spans<N>): boolean {
  const [few, many] = a.first.length <= b.first.length ? [a, b] : [b, a]
  return few.first.some((first, i) => {
    const end = few.last[i]
    if (end === undefined) return false
    const last = many.last[positionOf(many, end)]
    return last !== undefined && last >= first
  })
}

/** What both have. */
export function intersectSpans<N extends number | bigint>(a: Spans<N>, b: Spans<N>): Spans<N> {
  const first: N[] = []
  const last: N[] = []
  for (let i = 0, j = 0; ; ) {
    const aFirst = a.first[i]
    const bFirst = b.first[j]
    const aLast = a.last[i]
    const bLast = b.last[j]
    if (aFirst === undefined || bFirst === undefined || aLast === undefined || bLast === undefined) return { first, last }
    const from = aFirst > bFirst ? aFirst : bFirst
    const to = aLast < bLast ? aLast : bLast
    if (from <= to) {
      first.push(from)
      last.push(to)
    }
    if (aLast < bLast) i += 1
    else j += 1
  }
}

/** What `a` has and `b` has not. */
export function subtractSpans<N extends number | bigint>(a: Spans<N>, b: Spans<N>, next: (value: N) => N, previous: (value: N) => N): Spans<N> {
  const first: N[] = []
  const last: N[] = []
  let j = 0
  for (const [i, aFirst] of a.first.entries()) {
    const aLast = a.last[i]
    if (aLast === undefined) break
    let from: N | undefined = aFirst
    for (;;) {
      const bFirst = b.first[j]
      const bLast = b.last[j]
      if (bFirst === undefined || bLast === undefined || bFirst > aLast) break
      if (bLast < aFirst) {
        j += 1
        continue
      }
      if (from !== undefined && bFirst > from) {
        first.push(from)
        last.push(previous(bFirst))
      }
      if (bLast >= aLast) {
        from = undefined
        break
      }
      from = next(bLast)
      j += 1
    }
    if (from !== undefined) {
      first.push(from)
      last.push(aLast)
    }
  }
  return { first, last }
}

/** Same numbers. */
export function sameSpans<N extends number | bigint>(a: Spans<N>, b: Spans<N>): boolean {
  return a.first.length === b.first.length && a.first.every((first, i) => first === b.first[i]) && a.last.every((last, i) => last === b.last[i])
}
