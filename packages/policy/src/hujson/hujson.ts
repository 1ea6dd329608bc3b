import { decodeByteText, fromByteText } from './byte-text.ts'
import { format } from './format.ts'
import type { HuJsonError } from './parse.ts'
import { patch } from './patch.ts'
import { readValue, toText } from './read.ts'
import { isStandard, minimize, standardize } from './standard.ts'
import { cloneValue, packValue, type Value } from './tree.ts'

/** A result, or why there is none. */
export type HuJsonResult<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: HuJsonError }

/** The text of a HuJSON value as a tree that packs back byte for byte. Methods that change it change it in place. */
export class HuJsonTree {
  readonly #root: Value

  /** Wraps a tree that {@link parseHuJson} made; the tree is owned from then on. */
  constructor(root: Value) {
    this.#root = root
  }

  /** The top-level value with what stands around it. Offsets are those of the text that was read. */
  get root(): Value {
    return this.#root
  }

  /** True when there is no comment and no trailing comma. */
  get standard(): boolean {
    return isStandard(this.#root)
  }

  /** The bytes of the tree: a new array. Equal to what was read until something was changed. */
  pack(): Uint8Array {
    return fromByteText(packValue(this.#root))
  }

  /** The text of the tree; bytes that are not UTF-8 (possible in strings only) are shown as U+FFFD. */
  toString(): string {
    return decodeByteText(packValue(this.#root))
  }

  /** A tree that shares nothing with this one. */
  clone(): HuJsonTree {
    return new HuJsonTree(cloneValue(this.#root))
  }

  /** Lays the text out as the hujson module does. Standard JSON stays standard. */
  format(): void {
    format(this.#root)
  }

  /** Turns comments and trailing commas into spaces, so that offsets, lines and columns stay. */
  standardize(): void {
    standardize(this.#root)
  }

  /** Removes white space, comments and trailing commas. */
  minimize(): void {
    minimize(this.#root)
  }

  /**
   * Applies a JSON patch (RFC 6902; may be HuJSON), keeping comments. Returns the reason of a failure; earlier operations of the patch have
   * then been applied: work on a {@link clone}.
   */
  patch(operations: string | Uint8Array): string | undefined {
    const text = toText(operations)
    return typeof text === 'string' ? patch(this.#root, text) : text.error.message
  }
}

/** Reads HuJSON: JSON with comments and trailing commas. Strict; any depth. A string with a lone surrogate is refused. */
export function parseHuJson(input: string | Uint8Array): HuJsonResult<HuJsonTree> {
  const { value, error } = readValue(input)
  return error === undefined ? { ok: true, value: new HuJsonTree(value) } : { ok: false, error }
}

/** The text laid out as the hujson module does: tabs, one member a line where needed, aligned values, one line feed at the end. */
export function formatHuJson(input: string): HuJsonResult<string> {
  return changed(input, (tree) => tree.format())
}

/** The text as standard JSON of the same length: comments and trailing commas become spaces. */
export function standardizeHuJson(input: string): HuJsonResult<string> {
  return changed(input, (tree) => tree.standardize())
}

/** The text as the shortest standard JSON. */
export function minimizeHuJson(input: string): HuJsonResult<string> {
  return changed(input, (tree) => tree.minimize())
}

/** The text after a JSON patch (RFC 6902) with its comments, not formatted. Errors of the patch have no place in the text: line, column 1. */
export function patchHuJson(input: string, operations: string): HuJsonResult<string> {
  const parsed = parseHuJson(input)
  if (!parsed.ok) return parsed
  const message = parsed.value.patch(operations)
  if (message !== undefined) return { ok: false, error: { message, line: 1, column: 1, offset: 0 } }
  return { ok: true, value: parsed.value.toString() }
}

function changed(input: string, change: (tree: HuJsonTree) => void): HuJsonResult<string> {
  const parsed = parseHuJson(input)
  if (!parsed.ok) return parsed
  change(parsed.value)
  return { ok: true, value: parsed.value.toString() }
}
