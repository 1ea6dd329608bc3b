import { equalBytes, utf8Encode } from '@meshwright/core'
import type { Endpoint } from '@meshwright/ip'
import { encodeXorMappedAddress, SOFTWARE, XOR_MAPPED_ADDRESS } from './attributes.ts'
import { RELAY_CLIENT_SOFTWARE } from './binding.ts'
import { BINDING_REQUEST, BINDING_RESPONSE, decodeStunMessage, encodeStunMessage, findAttribute } from './message.ts'

const DEMANDED_SOFTWARE: Uint8Array = /* @__PURE__ */ utf8Encode(RELAY_CLIENT_SOFTWARE)

/** Who is answered. */
export interface AnswerBindingOptions {
  /** Answer every well-formed Binding request, also without SOFTWARE and FINGERPRINT. Default: clients of relays alone. */
  readonly anyClient?: boolean
}

/**
 * The whole STUN server: the answer to one datagram, or `undefined` for silence. As derper does (tailscale/tailscale:net/stun/stun.go,
 * measured), it answers only Binding requests whose SOFTWARE is exactly `tailnode`, whose last attribute is a right FINGERPRINT and that
 * have nothing behind them, so that it is of no use to reflect attacks: no answer is longer than its request but for IPv6, by 4 bytes.
 *
 * The answer holds one XOR-MAPPED-ADDRESS. An IPv4 client that a dual-stack socket reports as `::ffff:a.b.c.d` is told its IPv4 address.
 * @param from where the datagram came from; the answer goes there
 */
export function answerBinding(bytes: Uint8Array, from: Endpoint, options: AnswerBindingOptions = {}): Uint8Array | undefined {
  const request = decodeStunMessage(bytes)
  if (request === undefined || request.type !== BINDING_REQUEST) return undefined
  if (options.anyClient !== true) {
    const software = findAttribute(request, SOFTWARE)
    if (software === undefined || !equalBytes(software, DEMANDED_SOFTWARE)) return undefined
    if (request.fingerprint !== 'valid' || request.trailingBytes > 0) return undefined
  } else if (request.fingerprint === 'wrong') {
    return undefined
  }
  const mapped = { ip: from.ip.unmapped(), port: from.port }
  const value = encodeXorMappedAddress(mapped, request.transactionId)
  return encodeStunMessage({ type: BINDING_RESPONSE, transactionId: request.transactionId, attributes: [{ type: XOR_MAPPED_ADDRESS, value }] })
}
