import { formatIp, type Ip, parseIp } from './address.ts'

/** An address and a UDP or TCP port: where a datagram goes to or came from. */
export interface Endpoint {
  readonly ip: Ip
  /** 0 to 65535. */
  readonly port: number
}

/** Reads `1.2.3.4:5` or `[2001:db8::1]:5`; `undefined` for anything else, names included. */
export function parseEndpoint(text: string): Endpoint | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})$/.exec(text)
  if (match === null) return undefined
  const ip = parseIp(match[1] ?? match[2] ?? '')
  const port = Number(match[3])
  if (ip === undefined || port > 65535 || (match[1] === undefined) !== (ip.family === 4)) return undefined
  return { ip, port }
}

/** `1.2.3.4:5` or `[2001:db8::1]:5`. Equal endpoints have equal texts: also the right key for a `Map`. */
export function formatEndpoint(endpoint: Endpoint): string {
  return endpoint.ip.family === 4 ? `${formatIp(endpoint.ip)}:${endpoint.port}` : `[${formatIp(endpoint.ip)}]:${endpoint.port}`
}

/** Same address and same port. */
export function equalEndpoints(a: Endpoint, b: Endpoint): boolean {
  return a.port === b.port && a.ip.equals(b.ip)
}
