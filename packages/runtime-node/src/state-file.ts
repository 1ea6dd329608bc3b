import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, statSync, writeSync } from 'node:fs'
import path from 'node:path'
import { formatBase64, MeshwrightError, parseBase64, utf8DecodeStrict, utf8Encode } from '@meshwright/core'

/** Codes of the errors of {@link StateFile}. */
export type StateFileErrorCode = 'STATE_FILE_UNREADABLE' | 'STATE_FILE_CORRUPT' | 'STATE_FILE_UNWRITABLE'

/** A state file that cannot be used. The file is left as it was. */
export class StateFileError extends MeshwrightError<StateFileErrorCode> {}

/**
 * Small named values that survive a restart: one JSON object, name to base64 of the bytes, as tailscaled keeps its state
 * (tailscale/tailscale:ipn/store/stores.go). Mode 0600. Every write goes to a neighbour file, is flushed to the disk and renamed over
 * the old one, so that a crash leaves the old state or the new, never half of one. An empty file counts as missing; one that does
 * not parse is refused, never replaced.
 */
export class StateFile {
  readonly path: string
  readonly #values: Map<string, Uint8Array>

  private constructor(file: string, values: Map<string, Uint8Array>) {
    this.path = file
    this.#values = values
  }

  /**
   * Reads a state file; a missing one is an empty state.
   * @throws StateFileError STATE_FILE_UNREADABLE, STATE_FILE_CORRUPT
   */
  static open(file: string): StateFile {
    let text: string
    try {
      refuseWhatIsNoFile(file)
      rmSync(temporary(file), { force: true }) // what a crash in the middle of a write left behind; the old state is whole
      text = readFileSync(file, 'utf8')
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return new StateFile(file, new Map())
      throw new StateFileError('STATE_FILE_UNREADABLE', `cannot read the state file ${file}: ${reason(error)}`, { cause: error, remedy: 'Check its owner and mode (0600), or name another with --state.' })
    }
    return new StateFile(file, text.trim() === '' ? new Map() : parse(file, text))
  }

  /** The text stored under a name, or `undefined`. */
  read(name: string): string | undefined {
    const bytes = this.#values.get(name)
    return bytes && utf8DecodeStrict(bytes)
  }

  /** All names that are stored. */
  names(): readonly string[] {
    return [...this.#values.keys()]
  }

  /**
   * Stores texts (`undefined` removes one), all or none; they are on the disk when it returns.
   * @throws StateFileError STATE_FILE_UNWRITABLE, and then nothing has changed
   */
  write(changes: Readonly<Record<string, string | undefined>>): void {
    const next = new Map(this.#values)
    for (const [name, value] of Object.entries(changes)) {
      if (value === undefined) next.delete(name)
      else next.set(name, utf8Encode(value))
    }
    const text = `${JSON.stringify(Object.fromEntries([...next].map(([name, bytes]) => [name, formatBase64(bytes)])), null, '\t')}\n`
    try {
      replaceFile(this.path, text)
    } catch (error) {
      throw new StateFileError('STATE_FILE_UNWRITABLE', `cannot write the state file ${this.path}: ${reason(error)}`, {
        cause: error,
        remedy: codeOf(error) === 'ENOSPC' ? 'The disk is full: free some space; the old state is untouched.' : 'Check that its folder exists and can be written.',
      })
    }
    this.#values.clear()
    for (const [name, bytes] of next) this.#values.set(name, bytes)
  }
}

/** Replaces a file's content so that a crash leaves the old or the new, mode 0600. @throws where something else than a file stands there */
export function replaceFile(file: string, text: string): void {
  refuseWhatIsNoFile(file)
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 })
  const fresh = temporary(file)
  const fd = openSync(fresh, 'w', 0o600)
  try {
    const bytes = utf8Encode(text)
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at)
    fsyncSync(fd)
  } catch (error) {
    rmSync(fresh, { force: true })
    throw error
  } finally {
    closeSync(fd)
  }
  renameSync(fresh, file)
  syncFolder(path.dirname(file))
}

// A device may be read without end, and the rename would put a file in its place: root would lose /dev/null to it.
function refuseWhatIsNoFile(file: string): void {
  if (statSync(file, { throwIfNoEntry: false })?.isFile() === false) throw new Error('it is a folder, a device or a pipe, and no file')
}

// The rename itself is on the disk only when the folder is. Not every system lets a folder be opened; there the rename is the best there is.
function syncFolder(folder: string): void {
  if (process.platform === 'win32') return
  const fd = openSync(folder, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

function parse(file: string, text: string): Map<string, Uint8Array> {
  const corrupt = (what: string): StateFileError =>
    new StateFileError('STATE_FILE_CORRUPT', `the state file ${file} ${what}`, { remedy: 'Restore it from a backup, or move it away to start as a new node.' })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw corrupt(`is not JSON (${reason(error)})`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw corrupt('does not hold one JSON object')
  const values = new Map<string, Uint8Array>()
  for (const [name, encoded] of Object.entries(value)) {
    const bytes = typeof encoded === 'string' ? parseBase64(encoded) : undefined
    if (bytes === undefined) throw corrupt(`holds something else than base64 under '${name}'`)
    values.set(name, bytes)
  }
  return values
}

function temporary(file: string): string {
  return `${file}.tmp`
}

function codeOf(error: unknown): string | undefined {
  return typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
