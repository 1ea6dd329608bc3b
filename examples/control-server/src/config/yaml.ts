import { type Document, isScalar, LineCounter, parseDocument, visit } from 'yaml'
import { MAX_CONFIG_BYTES, readText } from '../bounded-file.ts'
import { Failure } from '../failure.ts'

/** A YAML file and the places in it. */
export interface YamlFile {
  readonly document: Document
  readonly lines: LineCounter
}

/** Reads a YAML file of at most 1 MiB. @throws Failure naming the file, and the place of what is wrong */
export function readYaml(file: string, what: string, remedy: string): YamlFile {
  const source = readText(file, MAX_CONFIG_BYTES, { what, remedy })
  const lines = new LineCounter()
  // The parser's own search for keys that are written twice compares each with all.
  const document = parseDocument(source, { lineCounter: lines, uniqueKeys: false })
  const refuse = (at: { readonly line: number; readonly col: number } | undefined, message: string): never => {
    throw new Failure(`${file}${at === undefined ? '' : `:${at.line}:${at.col}`}: ${message}`, { status: 2 })
  }
  const [fault] = document.errors
  if (fault !== undefined) refuse(fault.linePos?.[0], fault.message.split('\n')[0] ?? 'not YAML')
  visit(document, {
    Map(_key, { items }) {
      const known = new Set<unknown>()
      for (const { key } of items) {
        if (!isScalar(key)) continue
        if (known.has(key.value)) refuse(lines.linePos(key.range?.[0] ?? 0), `${String(key.value)} is written twice`)
        known.add(key.value)
      }
    },
  })
  return { document, lines }
}
