import { randomInt } from 'node:crypto'
import dgram from 'node:dgram'
import { readFileSync } from 'node:fs'
import net from 'node:net'

const handedOut = new Set<number>()

/**
 * A port, of TCP and of UDP, that is free now on all addresses, and another at each call. Not one of those that the system gives to outgoing
 * connections and to whoever binds port 0: between this look and the start of a program, or its end and its next start, one of them would be
 * taken now and then.
 * @throws Error when none is found
 */
export async function freePort(): Promise<number> {
  const [first, end] = quietPorts()
  for (let tries = 0; tries < 1_000; tries += 1) {
    const port = randomInt(first, end)
    if (handedOut.has(port) || !(await isFree(port))) continue
    handedOut.add(port)
    return port
  }
  throw new Error('no free port')
}

function quietPorts(): readonly [number, number] {
  const [low, high] = ephemeralPorts()
  return low >= 20_000 ? [10_000, low] : [high + 1, 65_536]
}

// What Linux says, or what systems say mostly.
function ephemeralPorts(): readonly [number, number] {
  try {
    const [low = 32_768, high = 60_999] = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'latin1').trim().split(/\s+/).map(Number)
    return high < 65_000 || low >= 20_000 ? [low, high] : [32_768, 60_999]
  } catch {
    return [32_768, 60_999]
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const [server, socket] = [net.createServer(), dgram.createSocket('udp4')]
    const end = (free: boolean): void => void server.close(() => socket.close(() => resolve(free)))
    server.once('error', () => socket.close(() => resolve(false)))
    server.listen(port, () => socket.once('error', () => end(false)).bind(port, () => end(true)))
  })
}
