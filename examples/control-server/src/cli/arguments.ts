import { nearest } from '../config/nearest.ts'
import { Failure } from '../failure.ts'

/** A flag: its long name, its letter, and what it takes. */
export interface Flag {
  readonly name: string
  readonly short?: string
  readonly kind: 'text' | 'list' | 'switch'
  /** What stands for the value in the help. */
  readonly value?: string
  readonly help: string
}

/** What a command line says behind the command. */
export interface Arguments {
  readonly positional: readonly string[]
  text(name: string): string | undefined
  list(name: string): readonly string[]
  has(name: string): boolean
}

/**
 * Reads flags after the rules of headscale's command line: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`, switches
 * as `--name` or `--name=false`, lists joined by commas or repeated, `--` ends the flags.
 * @throws Failure with status 2, naming the flag and the nearest known one
 */
export function parseArguments(words: readonly string[], flags: readonly Flag[], command: string): Arguments {
  const values = new Map<string, string[]>()
  const positional: string[] = []
  for (let i = 0; i < words.length; i += 1) {
    const word = words[i] ?? ''
    if (word === '--') {
      positional.push(...words.slice(i + 1))
      break
    }
    if (!word.startsWith('-') || word === '-') {
      positional.push(word)
      continue
    }
    const { flag, inline } = findFlag(word, flags, command)
    let value = inline
    if (flag.kind === 'switch') {
      if (value !== undefined && value !== 'true' && value !== 'false') throw wrong(`${word}: expected true or false`, command)
      value = value ?? 'true'
    } else if (value === undefined) {
      i += 1
      value = words[i]
      if (value === undefined) throw wrong(`flag needs an argument: ${word}`, command)
    }
    values.set(flag.name, flag.kind === 'list' ? [...(values.get(flag.name) ?? []), ...value.split(',').filter((item) => item !== '')] : [value])
  }
  return {
    positional,
    text: (name) => values.get(name)?.[0],
    list: (name) => values.get(name) ?? [],
    has: (name) => {
      const value = values.get(name)
      return value !== undefined && value[0] !== 'false'
    },
  }
}

function findFlag(word: string, flags: readonly Flag[], command: string): { readonly flag: Flag; readonly inline: string | undefined } {
  if (word.startsWith('--')) {
    const equals = word.indexOf('=')
    const name = word.slice(2, equals < 0 ? undefined : equals)
    const flag = flags.find((one) => one.name === name)
    if (flag !== undefined) return { flag, inline: equals < 0 ? undefined : word.slice(equals + 1) }
    const near = nearest(name, flags.map((one) => one.name))
    throw wrong(`unknown flag: --${name}${near === undefined ? '' : ` (did you mean --${near}?)`}`, command)
  }
  const flag = flags.find((one) => one.short === word[1])
  if (flag === undefined) throw wrong(`unknown shorthand flag: ${word}`, command)
  const rest = word.slice(2)
  return { flag, inline: rest === '' ? undefined : rest.replace(/^=/, '') }
}

/** A command line that cannot be meant. */
export function wrong(message: string, command: string): Failure {
  return new Failure(message, { remedy: `meshwright-control ${command} --help shows what it takes`, status: 2 })
}
