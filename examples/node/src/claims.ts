import { lstatSync, mkdirSync, openSync, rmSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import path from 'node:path'

/** The longest path of a Unix socket in bytes (unix(7): `sun_path`, less its end). A longer one would be cut, and be another file. */
const MAX_SOCKET_PATH_BYTES = process.platform === 'linux' ? 107 : 103

/**
 * Makes way for a socket: one that nobody answers on is what a killed daemon left behind, and is removed. Nothing else ever is.
 * @throws Error when a living daemon answers on it, when it is no socket, or when its path is too long
 */
export async function claimSocket(socketPath: string): Promise<void> {
  const bytes = Buffer.byteLength(socketPath)
  if (bytes > MAX_SOCKET_PATH_BYTES) throw new Error(`the path of the socket is ${bytes} bytes long, this system takes ${MAX_SOCKET_PATH_BYTES}: name a shorter one with --socket`)
  const found = await clearLeftover(socketPath).catch((error: unknown) => {
    throw new Error(`the socket ${socketPath} cannot be made: ${error instanceof Error ? error.message : String(error)}. Name another with --socket, in a folder of yours`, { cause: error })
  })
  if (found === 'alive') throw new Error(`another daemon is listening on ${socketPath}: stop it, or name another socket with --socket`)
  if (found === 'other') throw new Error(`${socketPath} exists and is no socket: it is left as it is; name another path with --socket`)
}

/** Listens on a Unix socket that, from its first moment, nobody but its owner may open. */
export function listenPrivately(server: Server, socketPath: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    const before = process.umask(0o177) // the socket is made within `listen`
    try {
      server.listen(socketPath, () => {
        server.off('error', reject)
        resolve()
      })
    } finally {
      process.umask(before)
    }
  })
}

/**
 * Holds a state file for this process, by a socket beside it (`FILE.lock`) that lives as long as the process: two daemons of one state would
 * be one node twice, and each would write over what the other has stored. Where no socket can be made (a disk that is full or read-only)
 * nothing is held: nobody can write the state there either.
 * @returns gives the file up
 * @throws Error when another daemon holds it
 */
export async function claimState(stateFile: string): Promise<() => void> {
  const lock = `${path.resolve(stateFile)}.lock`
  if (!hasFolder(lock)) return () => undefined // whoever writes the state says why
  const short = shortPath(lock)
  if (short === undefined) return () => undefined // this system knows no way to name it
  const found = await clearLeftover(short).catch(() => undefined)
  if (found === undefined) return () => undefined // a folder that cannot be looked into: whoever writes the state says why
  if (found === 'alive') throw new Error(`another daemon uses the state file ${stateFile}: stop it, or name another with --state`)
  if (found === 'other') throw new Error(`${lock} exists and is no lock of this program: move it away, or name another state file with --state`)
  const holder = createServer((socket) => socket.destroy())
  const held = await listenPrivately(holder, short).then(
    () => true,
    () => false, // see above
  )
  if (!held) return () => undefined
  holder.unref()
  const release = (): void => {
    process.off('exit', release)
    rmSync(short, { force: true })
    holder.close()
  }
  process.once('exit', release)
  return release
}

function hasFolder(file: string): boolean {
  try {
    mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 })
    return true
  } catch {
    return false // the caller knows what that means
  }
}

// A folder that is open is named in few bytes.
function shortPath(file: string): string | undefined {
  if (Buffer.byteLength(file) <= MAX_SOCKET_PATH_BYTES) return file
  const name = path.basename(file)
  if (process.platform !== 'linux' || Buffer.byteLength(name) > MAX_SOCKET_PATH_BYTES - 32) return undefined
  return `/proc/self/fd/${openSync(path.dirname(file), 'r')}/${name}`
}

async function clearLeftover(socketPath: string): Promise<'free' | 'alive' | 'other'> {
  mkdirSync(path.dirname(socketPath), { recursive: true })
  const stat = lstatSync(socketPath, { throwIfNoEntry: false })
  if (stat === undefined) return 'free'
  if (!stat.isSocket()) return 'other'
  const refused = await new Promise<boolean>((resolve) => {
    const probe = connect(socketPath, () => {
      probe.destroy()
      resolve(false)
    })
    // Whatever else is answered (no permission, a full backlog) comes from a socket that somebody may hold.
    probe.on('error', (error) => resolve('code' in error && (error.code === 'ECONNREFUSED' || error.code === 'ENOENT')))
  })
  if (!refused) return 'alive'
  rmSync(socketPath, { force: true })
  return 'free'
}
