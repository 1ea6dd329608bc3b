import { parseProtocol, PROTOCOL_NAMES } from './ports.ts'

/** The usual name of an IP protocol number, as policies write it; the number where it has none. */
export function protocolName(protocol: number): string {
  return PROTOCOL_NAMES.find((name) => parseProtocol(name) === protocol) ?? String(protocol)
}
