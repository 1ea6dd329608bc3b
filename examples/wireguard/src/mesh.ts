import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node'
import { formatSecretKey, parseKeyText } from '@meshwright/wireguard/text'
import { readText } from './check.ts'
import { type MeshDescription, parseMesh } from './mesh-file.ts'
import { type MeshSecrets, planConfig, planFirewall } from './mesh-plan.ts'
import { UsageError } from './usage-error.ts'

const SECRETS_FILE = 'mesh-secrets.json'
const SECRET_MODE = 0o600

/** What `mesh-secrets.json` holds, in base64: keys by host, next keys by host, preshared keys by "host host" in the order of the alphabet. */
interface StoredSecrets {
  readonly keys: Record<string, string>
  readonly next: Record<string, string>
  readonly psks: Record<string, string>
}

/**
 * `mesh FILE [--out FOLDER]`: writes `HOST/IF.conf` and `HOST/IF.nft` for every host. Keys are made once and kept in the folder; a file
 * that would not change is left alone. Gives one line for each file.
 * @throws UsageError
 */
export function mesh(args: readonly string[]): string {
  const { file, out, rest } = meshArgs(args)
  if (rest.length > 0) throw new UsageError('usage: meshwright-wg mesh FILE [--out FOLDER]')
  const store = new SecretStore(out)
  return writeAll(parseMesh(readText(file), file), store, out)
}

/**
 * `rotate HOST FILE [--out FOLDER]`, twice: first a new key is made, and every peer learns it beside the old one; when those files are
 * in use everywhere, the second call makes it the host's key and lets the old one go.
 * @throws UsageError
 */
export function rotate(args: readonly string[]): string {
  const [host, ...others] = args
  if (host === undefined) throw new UsageError('usage: meshwright-wg rotate HOST FILE [--out FOLDER]')
  const { file, out, rest } = meshArgs(others)
  const description = parseMesh(readText(file), file)
  if (rest.length > 0 || !description.hosts.some((each) => each.name === host)) throw new UsageError(`${file}: no host is called ${JSON.stringify(host)}`)
  const store = new SecretStore(out)
  const finished = store.rotate(host)
  const said = finished
    ? `rotation of ${host}, step 2 of 2: the new key is its key. Put the files to use on ${host} first, then on its peers within ten seconds (wg syncconf): what ${host} sends before that waits there.`
    : `rotation of ${host}, step 1 of 2: its peers know the new key beside the old one. Put their files to use, then say "rotate ${host}" again.`
  return `${writeAll(description, store, out)}${said}\n`
}

function meshArgs(args: readonly string[]): { readonly file: string; readonly out: string; readonly rest: readonly string[] } {
  let parsed
  try {
    parsed = parseArgs({ args: [...args], allowPositionals: true, options: { out: { type: 'string' } } })
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
  const [file, ...rest] = parsed.positionals
  if (file === undefined) throw new UsageError('a mesh description is expected')
  return { file, out: parsed.values.out ?? 'mesh', rest }
}

function writeAll(description: MeshDescription, store: SecretStore, out: string): string {
  // All is made before anything is written: a description that fails changes nothing.
  const files = description.hosts.flatMap((host) => [
    { name: path.join(host.name, `${description.interfaceName}.conf`), text: planConfig(description, host, store), mode: SECRET_MODE },
    { name: path.join(host.name, `${description.interfaceName}.nft`), text: planFirewall(description, host), mode: 0o644 },
  ])
  store.save()
  return files
    .map(({ name, text, mode }) => {
      const target = path.join(out, name)
      if (existsSync(target) && readFileSync(target, 'utf8') === text) return `unchanged ${target}\n`
      const how = existsSync(target) ? 'changed' : 'new'
      replace(target, text, mode)
      return `${how.padEnd(9)} ${target}\n`
    })
    .concat(staleFolders(description, out).map((folder) => `stale     ${folder}: no host of that name any more; stop it there, and delete this\n`))
    .join('')
}

// Left by hosts that the description had once: their peers do not know them any more, but their keys lie there.
function staleFolders({ hosts, interfaceName }: MeshDescription, out: string): string[] {
  return readdirSync(out, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !hosts.some((host) => host.name === entry.name) && existsSync(path.join(out, entry.name, `${interfaceName}.conf`)))
    .map((entry) => path.join(out, entry.name))
}

class SecretStore implements MeshSecrets {
  readonly #file: string
  readonly #stored: StoredSecrets
  readonly #before: string

  constructor(folder: string) {
    this.#file = path.join(folder, SECRETS_FILE)
    this.#before = existsSync(this.#file) ? readText(this.#file) : ''
    this.#stored = this.#before === '' ? { keys: record([]), next: record([]), psks: record([]) } : this.#parse(this.#before)
  }

  keyOf(host: string): NodePrivateKey {
    return this.#key((this.#stored.keys[host] ??= newKey()))
  }

  nextKeyOf(host: string): NodePrivateKey | undefined {
    const text = this.#stored.next[host]
    return text === undefined ? undefined : this.#key(text)
  }

  pskOf(a: string, b: string): Uint8Array {
    const name = [a, b].sort().join(' ')
    return this.#bytes((this.#stored.psks[name] ??= formatSecretKey(systemRandom(32))))
  }

  /** Makes the next key of a host, or makes it the key; true for the latter. */
  rotate(host: string): boolean {
    const next = this.#stored.next[host]
    if (next === undefined) {
      this.#stored.next[host] = newKey()
      return false
    }
    this.#stored.keys[host] = next
    delete this.#stored.next[host]
    return true
  }

  save(): void {
    const text = `${JSON.stringify(this.#stored, null, 2)}\n`
    if (text !== this.#before) replace(this.#file, text, SECRET_MODE)
  }

  #key(text: string): NodePrivateKey {
    return NodePrivateKey.fromBytes(this.#bytes(text)) ?? this.#fail()
  }

  #bytes(text: string): Uint8Array {
    return parseKeyText(text) ?? this.#fail()
  }

  #parse(text: string): StoredSecrets {
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch {
      return this.#fail()
    }
    const part = (name: 'keys' | 'next' | 'psks'): Record<string, string> => {
      const found: unknown = typeof value === 'object' && value !== null && name in value ? Reflect.get(value, name) : undefined
      if (typeof found !== 'object' || found === null) return this.#fail()
      const entries = Object.entries(found)
      return entries.every((entry): entry is [string, string] => typeof entry[1] === 'string') ? record(entries) : this.#fail()
    }
    return { keys: part('keys'), next: part('next'), psks: part('psks') }
  }

  #fail(): never {
    throw new UsageError(`${this.#file} is damaged: restore it from a copy; with new secrets no host would know another`)
  }
}

/** Without a prototype: a host may be called "constructor". */
function record(entries: readonly (readonly [string, string])[]): Record<string, string> {
  const made: Record<string, string> = Object.create(null)
  for (const [key, value] of entries) made[key] = value
  return made
}

function newKey(): string {
  return formatSecretKey(NodePrivateKey.generate(systemRandom).secretBytes)
}

/** Replaces a file as a whole: nobody ever sees half of it. */
function replace(file: string, text: string, mode: number): void {
  try {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 })
    writeFileSync(`${file}.new`, text, { mode })
    renameSync(`${file}.new`, file)
  } catch (error) {
    throw new UsageError(`${file} cannot be written: ${error instanceof Error ? error.message : String(error)}`, 1)
  }
}
