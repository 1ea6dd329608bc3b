import net from 'node:net'
import { type Outside, systemOutside } from '../../packages/runtime-node/src/outside.ts'

/** Connections from an address of loopback of one's own: who lies, who is honest and who is new are told apart by it. */
export function outsideFrom(localAddress: string): Outside {
  return { ...systemOutside, connect: (host, port) => Promise.resolve(net.connect({ host, port, localAddress })) }
}
