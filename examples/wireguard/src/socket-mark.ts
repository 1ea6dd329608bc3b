import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

// asm-generic/socket.h
const SOL_SOCKET = 1
const SO_MARK = 36

/** Marks the UDP sockets of a port; `false` when the kernel refuses (it needs CAP_NET_ADMIN) or there are none. */
export type SetMark = (port: number, mark: number) => boolean

/**
 * Setting SO_MARK, which Node cannot, through the optional package `koffi`; `undefined` without it. Node does not tell descriptors of
 * its sockets either, but the kernel does: by port, in /proc.
 */
export async function loadSetMark(): Promise<SetMark | undefined> {
  try {
    const { default: koffi } = await import('koffi')
    const setsockopt = koffi.load(null).func('int setsockopt(int fd, int level, int name, const uint8_t *value, uint32_t length)')
    return (port, mark) => {
      const value = new Uint8Array(4)
      new DataView(value.buffer).setUint32(0, mark, true)
      const sockets = socketsOfPort(port)
      return sockets.length > 0 && sockets.every((fd) => Number(setsockopt(fd, SOL_SOCKET, SO_MARK, value, value.length)) === 0)
    }
  } catch {
    return undefined // without koffi there is no TUN device either, which is said there
  }
}

function socketsOfPort(port: number): number[] {
  const inodes = new Set(['/proc/self/net/udp', '/proc/self/net/udp6'].flatMap((table) => inodesOfPort(table, port)))
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const match = /^socket:\[([0-9]+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))
      return match?.[1] !== undefined && inodes.has(match[1]) ? [Number(fd)] : []
    } catch {
      return [] // closed meanwhile: the descriptor of this very listing, for one
    }
  })
}

// Columns of /proc/net/udp: slot, local address:port, remote, state, queues, timer, retransmits, uid, timeout, inode.
function inodesOfPort(table: string, port: number): string[] {
  let text: string
  try {
    text = readFileSync(table, 'utf8')
  } catch {
    return [] // a kernel without IPv6
  }
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  return text
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .flatMap((columns) => (columns[1]?.endsWith(wanted) && columns[9] !== undefined ? [columns[9]] : []))
}
