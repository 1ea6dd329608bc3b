import { readFileSync } from 'node:fs'
import { Failure, reasonOf } from './failure.ts'
import { writeSecretFile } from './whole-file.ts'

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
    writeSecretFile(file, `${key}\n`, 'keep') // clients know it: one that has come to be meanwhile is not replaced
  } catch (error) {
    throw new Failure(`cannot write the key file ${file}: ${reasonOf(error)}`, { remedy: `check ${setting} and the permissions of its folder`, cause: error })
  }
  return key
}
