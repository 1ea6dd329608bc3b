import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import { readFileSync, rmSync, statSync } from 'node:fs'
import { type ControlState, mapResponseOf, type NetworkMap } from '@meshwright/control-client'
import { decodeDocument, decodeMapResponse, formatJson, type MapResponse, parseJson } from '@meshwright/control-protocol'
import type { UnixMillis } from '@meshwright/core'
import { replaceFile } from './state-file.ts'

const FORMAT_VERSION = 1
/** An older map is not used: too much may have changed. */
export const LAST_MAP_MAX_AGE_MS: number = 30 * 86_400_000
const MAX_FILE_BYTES = 268_435_456
/** After a change, how long it takes until it is on the disk. Long writes (of large maps) come more seldom: this node has more to do. */
const SAVE_SOON_MS = 1_000
const SAVE_LATE_MS = 60_000
const SAVE_SHARE = 100

/** Who a map is for. */
export interface MapOwner {
  readonly control: ControlState | undefined
  readonly controlUrl: string
}

/**
 * The last network map, in a file beside the state file, so that a node can start while its control server is away. Mode 0600, written
 * atomically. What it says decides about access, so it is sealed: HMAC-SHA256 under a key that is made from the machine's private key. A file
 * that anybody else has written or changed, that is for another key or another server, or that is too old, counts as none.
 *
 * | line | holds |
 * |---|---|
 * | 1 | JSON: `version`, `controlUrl`, `nodeKey`, `savedAt` (ms since 1970) |
 * | 2 | the map as a `MapResponse`, JSON |
 * | 3 | the seal over both lines, hexadecimal |
 */
export class LastMap {
  readonly #file: string
  readonly #owner: () => MapOwner
  #latest: NetworkMap | undefined
  #saved: NetworkMap | undefined
  #timer: NodeJS.Timeout | undefined
  #waitMs = SAVE_SOON_MS
  readonly #onProblem: (line: string) => void

  /** @param stateFile the map is kept beside it; @param owner tells for whom, at any time */
  constructor(stateFile: string, owner: () => MapOwner, onProblem: (line: string) => void) {
    this.#file = `${stateFile}.map`
    this.#owner = owner
    this.#onProblem = onProblem
  }

  /** The map of an earlier run, if there is one that can be trusted. */
  read(wallNow: UnixMillis): MapResponse | undefined {
    const { control, controlUrl } = this.#owner()
    if (control?.nodeKey === undefined) return undefined
    const text = this.#text()
    if (text === undefined) return undefined
    const [head = '', body = '', seal = ''] = text.split('\n')
    if (!sameSeal(sealOf(control, head, body), seal)) return this.#refuse('was not written by this node, or was changed')
    const about = parseJson(head)
    const member = (name: string): unknown => (typeof about === 'object' && about !== null ? Reflect.get(about, name) : undefined)
    if (member('version') !== FORMAT_VERSION || member('controlUrl') !== controlUrl || member('nodeKey') !== control.nodeKey.publicKey().text) return undefined // of an earlier login
    const savedAt = Number(member('savedAt'))
    if (!(Math.abs(wallNow - savedAt) <= LAST_MAP_MAX_AGE_MS)) return this.#refuse('is too old')
    const decoded = decodeDocument(decodeMapResponse, Buffer.from(body))
    return decoded.ok ? decoded.value : this.#refuse('cannot be read')
  }

  /** Keeps a map; on the disk soon, or by {@link flush}. */
  keep(map: NetworkMap): void {
    this.#latest = map
    if (map === this.#saved || this.#timer !== undefined) return
    this.#timer = setTimeout(() => this.flush(), this.#waitMs).unref()
  }

  /** Writes what is not yet on the disk. A disk that does not take it costs the next start without a server, and nothing else. */
  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const map = this.#latest
    const { control, controlUrl } = this.#owner()
    if (map === undefined || map === this.#saved || control?.nodeKey === undefined || !map.self.nodeKey.equals(control.nodeKey.publicKey())) return
    const begun = performance.now()
    const head = formatJson({ version: FORMAT_VERSION, controlUrl, nodeKey: control.nodeKey.publicKey().text, savedAt: Date.now() })
    const body = formatJson(mapResponseOf(map))
    try {
      replaceFile(this.#file, `${head}\n${body}\n${sealOf(control, head, body).toString('hex')}\n`)
      this.#saved = map
    } catch (error) {
      this.#onProblem(`the network map cannot be kept: ${error instanceof Error ? error.message : String(error)}`)
    }
    this.#waitMs = Math.min(SAVE_LATE_MS, Math.max(SAVE_SOON_MS, (performance.now() - begun) * SAVE_SHARE))
  }

  /** Forgets the map, here and on the disk. */
  forget(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#latest = undefined
    this.#saved = undefined
    try {
      rmSync(this.#file, { force: true })
    } catch (error) {
      // It is sealed by keys that are gone, and not read again.
      this.#onProblem(`the kept network map ${this.#file} cannot be removed: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  #text(): string | undefined {
    try {
      return statSync(this.#file).size > MAX_FILE_BYTES ? this.#refuse('is too large') : readFileSync(this.#file, 'utf8')
    } catch (error) {
      const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT'
      return missing ? undefined : this.#refuse(`cannot be read: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  #refuse(why: string): undefined {
    this.#onProblem(`the kept network map ${this.#file} ${why}: it is not used`)
  }
}

function sealOf(control: ControlState, head: string, body: string): Buffer {
  const key = createHash('sha256').update('meshwright last map\0').update(control.machineKey.formatSecret()).digest()
  return createHmac('sha256', key).update(head).update('\n').update(body).digest()
}

function sameSeal(seal: Buffer, given: string): boolean {
  const bytes = Buffer.from(given, 'hex')
  return bytes.length === seal.length && timingSafeEqual(bytes, seal)
}
