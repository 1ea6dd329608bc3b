import { readFileSync } from 'node:fs'
import { chmod, open, readFile, realpath, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { UsageError } from './usage.ts'

const STDIN = '-'

/** The bytes of a file, or of standard input for `-`. @throws UsageError when it cannot be read */
export async function readBytes(file: string | undefined): Promise<Uint8Array> {
  if (file === undefined) throw new UsageError('FILE is missing')
  try {
    return file === STDIN ? readFileSync(0) : await readFile(file)
  } catch (error) {
    throw new UsageError(`${nameOf(file)}: ${error instanceof Error ? error.message : String(error)}`)
  }
}

/** How a file is called in messages. */
export function nameOf(file: string | undefined): string {
  return file === STDIN ? '<stdin>' : file ?? ''
}

/** True for standard input, which cannot be written. */
export function isStdin(file: string): boolean {
  return file === STDIN
}

/** Replaces a file whole or not at all, with its rights; through a link, the file that it leads to. @throws UsageError when it cannot */
export async function replaceFile(file: string, content: Uint8Array): Promise<void> {
  try {
    const target = await realpath(file)
    const { mode } = await stat(target)
    // In the same folder, so that the renaming stays on one disk.
    const staged = path.join(path.dirname(target), `.${path.basename(target)}.${process.pid}.new`)
    try {
      const handle = await open(staged, 'wx', mode)
      try {
        await handle.writeFile(content)
        await handle.sync()
      } finally {
        await handle.close()
      }
      await chmod(staged, mode)
      await rename(staged, target)
    } catch (error) {
      await rm(staged, { force: true })
      throw error
    }
  } catch (error) {
    throw new UsageError(`${file}: ${error instanceof Error ? error.message : String(error)}`)
  }
}
