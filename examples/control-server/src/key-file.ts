import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import path from 'node:path'
import { Failure, reasonOf } from './failure.ts'

/**
 * The text of a private key file, `privkey:` and 64 hex digits; the file is made (mode 0600) when it is missing. A file that holds
 * anything else is refused and left alone: a new key would shut out every client that knows the old one.
 */
export function readOrMakeKeyFile(file: string, setting: string, make: () => string): string {
  let text: string
  try {
    text = readFileSync(file, 'utf8').trim()
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) {
      throw new Failure(`cannot read the key file ${file}: ${reasonOf(error)}`, { remedy: `check ${setting} and the permissions of the file`, cause: error })
    }
    return writeKey(file, setting, make())
  }
  if (!/^privkey:[0-9a-fA-F]{64}$/.test(text)) {
    throw new Failure(`${file} does not hold a key`, { remedy: `restore it from a backup, or move it away to get a new one (clients must then be restarted): ${setting}`, status: 2 })
  }
  return text
}

function writeKey(file: string, setting: string, key: string): string {
  try {
    const folder = path.dirname(path.resolve(file))
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    // Whole or not at all, whatever ends this program meanwhile; and one that has come to be since is not replaced.
    const fresh = `${file}.${process.pid}.tmp`
    try {
      const handle = openSync(fresh, 'w', 0o600)
      writeSync(handle, `${key}\n`)
      fsyncSync(handle)
      closeSync(handle)
      linkSync(fresh, file)
    } finally {
      rmSync(fresh, { force: true })
    }
    const entry = openSync(folder, 'r')
    fsyncSync(entry) // that the file exists must survive as well: clients know its key
    closeSync(entry)
  } catch (error) {
    throw new Failure(`cannot write the key file ${file}: ${reasonOf(error)}`, { remedy: `check ${setting} and the permissions of its folder`, cause: error })
  }
  return key
}
