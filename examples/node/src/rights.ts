import { readFileSync } from 'node:fs'

/** Of `capabilities(7)`: may change the network of the system. */
const CAP_NET_ADMIN = 12n

/** Whether this process may change the network of the system. */
export function mayChangeNetwork(): boolean {
  if (process.platform !== 'linux') return process.getuid?.() === 0
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]
  return effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) === 1n
}
