import { createReadStream } from 'node:fs'
import { chmod, open, realpath, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { UsageError } from './usage.ts'

const STDIN = '-'

/** The longest policy that is read, as by the control server: each MiB takes about a second. */
const MAX_POLICY_BYTES = 2_097_152
/** The longest inventory that is read. */
export const MAX_INVENTORY_BYTES = 67_108_864

/** The bytes of a file, or of standard input for `-`. @throws UsageError when it cannot be read, or is longer than `maxBytes`; default: the longest policy */
export async function readBytes(file: string | undefined, maxBytes: number = MAX_POLICY_BYTES): Promise<Uint8Array> {
  if (file === undefined) throw new UsageError('FILE is missing')
  let bytes: Uint8Array | undefined
  try {
    bytes = file === STDIN ? await readUpTo(process.stdin, maxBytes) : await readFileUpTo(file, maxBytes)
  } catch (error) {
    throw new UsageError(`${nameOf(file)}: ${error instanceof Error ? error.message : String(error)}`)
  }
  if (bytes === undefined) throw new UsageError(`${nameOf(file)}: longer than ${maxBytes / 1_048_576} MiB, which is the most that is read`)
  return bytes
}

async function readFileUpTo(file: string, maxBytes: number): Promise<Uint8Array | undefined> {
  if ((await stat(file)).size > maxBytes) return undefined
  return readUpTo(createReadStream(file), maxBytes) // what tells no size, a pipe or a device, may have no end
}

/** All of a stream; `undefined` when it goes on beyond the limit, and then the rest is not read. */
async function readUpTo(stream: AsyncIterable<Uint8Array>, maxBytes: number): Promise<Uint8Array | undefined> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const part of stream) {
    length += part.length
    if (length > maxBytes) return undefined
    parts.push(part)
  }
  return Buffer.concat(parts)
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
