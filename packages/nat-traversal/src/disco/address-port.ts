import type { ByteReader, ByteWriter } from '@meshwright/core'
import { type Endpoint, Ip } from '@meshwright/ip'

/** Length of an address and port in disco messages, in bytes. */
export const ADDRESS_PORT_BYTES = 18

const IPV4_MAPPED_PREFIX = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff)

/** Writes 16 bytes of address (IPv4 as `::ffff:a.b.c.d`) and the port, big-endian. */
export function writeAddressPort(w: ByteWriter, endpoint: Endpoint): void {
  if (endpoint.ip.family === 4) w.bytes(IPV4_MAPPED_PREFIX)
  w.bytes(endpoint.ip.bytes).u16be(endpoint.port)
}

/** Reads what {@link writeAddressPort} wrote, IPv4-mapped addresses as IPv4; `undefined` when 18 bytes are not there. */
export function readAddressPort(r: ByteReader): Endpoint | undefined {
  const ip = Ip.fromBytes(r.bytes(16))
  const port = r.u16be()
  return r.ok && ip !== undefined ? { ip: ip.unmapped(), port } : undefined
}
