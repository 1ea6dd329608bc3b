import type { MainBorder } from './lane-thread.ts'
import { MemoryKernel } from './memory-kernel.ts'

/** The file descriptors of {@link notingBorder} and of the workers of tests. */
export const FDS = { wake: 30, socket: 41, otherSocket: 42, tun: 20 } as const

/** A worker of some lines in the place of a lane: it has a socket, and does as `onMessage` says with each `message`, or as `begin` says at once. */
export function planeWorker(onMessage: string, begin: string = "port.postMessage({ type: 'ready' })"): URL {
  return new URL(`data:text/javascript,${encodeURIComponent(`
import { workerData } from 'node:worker_threads'
const { port, pulse, offloads, sockets, config } = workerData
const beat = setInterval(() => Atomics.add(pulse, 0, 1), 5)
const end = (last) => { clearInterval(beat); port.postMessage(last); port.close() }
const post = (message) => port.postMessage(message)
port.on('message', (message) => { ${onMessage} })
if (sockets === undefined) post({ type: 'sockets', pair: { ipv4: ${FDS.socket}, ipv6: -1, port: 5000 } })
${begin}`)}`)
}

/** A border for the main thread that does nothing and notes what was closed, and which options and offloads were set to which number. */
export function notingBorder(): { readonly main: MainBorder; readonly closed: number[]; readonly set: (readonly [number, number, number])[] } {
  const arena = new Uint8Array(4_096)
  const view = new DataView(arena.buffer)
  const closed: number[] = []
  const set: (readonly [number, number, number])[] = []
  const border = Object.assign(new MemoryKernel(arena), {
    eventfd: () => FDS.wake,
    close: (fd: number) => closed.push(fd),
    ioctlValue: (fd: number, request: number, value: number) => set.push([fd, request, value]),
    setsockopt: (fd: number, _level: number, name: number, at: number) => set.push([fd, name, view.getInt32(at, true)]),
  })
  return { main: { border, arena, view, at: 64 }, closed, set }
}
