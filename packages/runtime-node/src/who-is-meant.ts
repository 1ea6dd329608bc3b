import { lookup } from 'node:dns/promises'
import { formatIp, type Ip, parseEndpoint, parseIp } from '@meshwright/ip'
import { refuseAborted } from './dial-abort.ts'
import type { HasRemote, HasSocket } from './running-node.ts'

/** The addresses of a name: those that the mesh knows, or else the system's. @throws what `node:dns` throws, AbortError (the promise rejects) */
export async function addressesOf(name: string, known: readonly Ip[], signal: AbortSignal | undefined): Promise<readonly string[]> {
  if (known.length > 0) return known.map(formatIp)
  const answers = await lookup(name, { all: true })
  refuseAborted(signal, `the look-up of '${name}' was aborted`) // the system's look-up cannot be broken off, but nobody is told of what was given up
  return answers.map((answer) => answer.address)
}

/** The address of a far end: a text with or without a port, a connection, or a request that came by one. */
export function farAddress(from: string | HasRemote | HasSocket): Ip | undefined {
  const address = typeof from === 'string' ? from : (('socket' in from ? from.socket : from).remoteAddress ?? '').replace(/^::ffff:(?=\d+\.)/, '')
  return parseIp(address) ?? parseEndpoint(address)?.ip
}
