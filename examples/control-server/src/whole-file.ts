import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import path from 'node:path'

/**
 * Makes a file with a secret in it (mode 0600), and its folder (0700), whole or not at all, whatever ends this program meanwhile. When it
 * returns, file and name are on the disk.
 * @param existing what becomes of a file that stands there: `keep` throws EEXIST, `replace` puts this one in its place
 * @throws Error of the file system
 */
export function writeSecretFile(file: string, text: string, existing: 'keep' | 'replace'): void {
  const [folder, fresh] = [path.dirname(path.resolve(file)), `${file}.${process.pid}.tmp`]
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  try {
    rmSync(fresh, { force: true })
    const handle = openSync(fresh, 'wx', 0o600)
    try {
      writeSync(handle, text)
      fsyncSync(handle)
    } finally {
      closeSync(handle)
    }
    if (existing === 'keep') linkSync(fresh, file)
    else renameSync(fresh, file)
  } finally {
    rmSync(fresh, { force: true })
  }
  const entry = openSync(folder, 'r')
  fsyncSync(entry)
  closeSync(entry)
}
