import { utf8Encode } from '@meshwright/core'

/** JSON that is made once and sent to many: its text for comparing, its bytes for sending. */
export class SharedJson {
  readonly text: string
  #bytes: Uint8Array | undefined

  constructor(text: string) {
    this.text = text
  }

  /** UTF-8 of the text, made when first asked for and shared by all: never to be changed. */
  get bytes(): Uint8Array {
    this.#bytes ??= utf8Encode(this.text)
    return this.#bytes
  }
}

const COMMA = 0x2c
const CLOSE_BRACE = 0x7d
const CLOSE_BRACKET = 0x5d

/** A JSON object that is put together from members, most of which are encoded already: their bytes are copied once, into the frame. */
export class FrameParts {
  readonly #names = new Set<string>()
  #chunks: Uint8Array[] = []
  #length = 0

  get empty(): boolean {
    return this.#names.size === 0
  }

  has(name: string): boolean {
    return this.#names.has(name)
  }

  /** Adds a member; names need no escaping. */
  member(name: string, json: string | SharedJson): void {
    this.#begin(name, typeof json === 'string' ? json : '')
    if (typeof json !== 'string') this.#add(json.bytes)
  }

  /** Adds a member that is an array. */
  array(name: string, items: readonly SharedJson[]): void {
    this.#begin(name, '[')
    items.forEach((item, i) => {
      if (i > 0) this.#add(COMMA_BYTES)
      this.#add(item.bytes)
    })
    this.#add(CLOSE_BRACKET_BYTES)
  }

  /**
   * The whole object; nothing can be added any more.
   * @param headroom bytes left free in front, for what a channel writes before it: so nobody copies a large frame for four bytes
   */
  finish(headroom: number = 0): Uint8Array {
    const frame = new Uint8Array(headroom + this.#length + 1)
    let at = headroom
    for (const chunk of this.#chunks) {
      frame.set(chunk, at)
      at += chunk.length
    }
    frame[at] = CLOSE_BRACE
    this.#chunks = []
    return frame
  }

  #begin(name: string, json: string): void {
    this.#add(utf8Encode(`${this.empty ? '{' : ','}"${name}":${json}`))
    this.#names.add(name)
  }

  #add(bytes: Uint8Array): void {
    this.#chunks.push(bytes)
    this.#length += bytes.length
  }
}

const COMMA_BYTES: Uint8Array = Uint8Array.of(COMMA)
const CLOSE_BRACKET_BYTES: Uint8Array = Uint8Array.of(CLOSE_BRACKET)
