import type { Instant, RandomSource } from '@meshwright/core'
import { constantTimeEqual, type CryptoProvider } from '@meshwright/crypto'
import { COOKIE_BYTES, COOKIE_NONCE_BYTES, COOKIE_SECRET_MAX_AGE_MS, COOKIE_USABLE_MS, MAC_BYTES } from './constants.ts'
import { cookieKeyOf, type Identity } from './identity.ts'
import { type CookieReplyMessage, encodeCookieReply } from './messages.ts'

/** The bytes that a mac field covers: mac1 covers all before it, mac2 all before it including mac1. Both stand at the message's end. */
function beforeMac1(message: Uint8Array): Uint8Array {
  return message.subarray(0, message.length - 2 * MAC_BYTES)
}

function mac1Of(message: Uint8Array): Uint8Array {
  return message.subarray(message.length - 2 * MAC_BYTES, message.length - MAC_BYTES)
}

function beforeMac2(message: Uint8Array): Uint8Array {
  return message.subarray(0, message.length - MAC_BYTES)
}

function mac2Of(message: Uint8Array): Uint8Array {
  return message.subarray(message.length - MAC_BYTES)
}

/** True when mac1 of a handshake message is right: checked first, always, before anything costly. */
export function isMac1Valid(provider: CryptoProvider, mac1Key: Uint8Array, message: Uint8Array): boolean {
  return constantTimeEqual(provider.mac(mac1Key, beforeMac1(message)), mac1Of(message))
}

/** The receiving side under load: hands out cookies bound to a source and checks mac2 (WireGuard paper, section 5.3). */
export class CookieChecker {
  readonly #provider: CryptoProvider
  readonly #random: RandomSource
  #secret: Uint8Array | undefined
  #secretAt = 0

  constructor(provider: CryptoProvider, random: RandomSource) {
    this.#provider = provider
    this.#random = random
  }

  /** True when mac2 was made with the cookie of this source, and its secret is not too old. */
  isMac2Valid(now: Instant, cookieBytes: Uint8Array, message: Uint8Array): boolean {
    if (this.#secret === undefined || now - this.#secretAt > COOKIE_SECRET_MAX_AGE_MS) return false
    const cookie = this.#provider.mac(this.#secret, cookieBytes)
    return constantTimeEqual(this.#provider.mac(cookie, beforeMac2(message)), mac2Of(message))
  }

  /** The reply that refuses `message` and tells its source a cookie. */
  reply(now: Instant, identity: Identity, cookieBytes: Uint8Array, message: Uint8Array, receiver: number): Uint8Array {
    if (this.#secret === undefined || now - this.#secretAt > COOKIE_SECRET_MAX_AGE_MS) {
      this.#secret = this.#random(32)
      this.#secretAt = now
    }
    const cookie = this.#provider.mac(this.#secret, cookieBytes)
    const nonce = this.#random(COOKIE_NONCE_BYTES)
    return encodeCookieReply(receiver, nonce, this.#provider.xaeadSeal(identity.cookieKey, nonce, cookie, mac1Of(message)))
  }

  /** Overwrites the secret. */
  destroy(): void {
    this.#secret?.fill(0)
    this.#secret = undefined
  }
}

/** The sending side: puts macs on messages to one peer, and keeps the cookie that the peer gave. */
export class CookieJar {
  #lastMac1: Uint8Array | undefined
  #cookie: Uint8Array | undefined
  #cookieAt = 0

  /** Writes mac1, and mac2 when there is a live cookie, into the end of `message`. */
  stamp(now: Instant, provider: CryptoProvider, mac1Key: Uint8Array, message: Uint8Array): void {
    const mac1 = provider.mac(mac1Key, beforeMac1(message))
    message.set(mac1, message.length - 2 * MAC_BYTES)
    this.#lastMac1 = mac1
    if (this.#cookie === undefined) return
    if (now - this.#cookieAt >= COOKIE_USABLE_MS) {
      this.#cookie = undefined
      return
    }
    message.set(provider.mac(this.#cookie, beforeMac2(message)), message.length - MAC_BYTES)
  }

  /** Takes the cookie out of a reply; `false` when it answers no message of ours or does not open. Each message takes one reply. */
  consume(now: Instant, provider: CryptoProvider, peerPublic: Uint8Array, reply: CookieReplyMessage): boolean {
    if (this.#lastMac1 === undefined) return false
    const cookie = provider.xaeadOpen(cookieKeyOf(provider, peerPublic), reply.nonce, reply.sealedCookie, this.#lastMac1)
    if (cookie === undefined || cookie.length !== COOKIE_BYTES) return false
    this.#lastMac1 = undefined
    this.#cookie = cookie
    this.#cookieAt = now
    return true
  }
}
