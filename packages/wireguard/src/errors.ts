import { MeshwrightError } from '@meshwright/core'

/** Codes of the errors that `@meshwright/wireguard` throws on misuse. */
export type WireGuardErrorCode =
  | 'WIREGUARD_PRESHARED_KEY_LENGTH'
  | 'WIREGUARD_KEEPALIVE_RANGE'
  | 'WIREGUARD_MTU_RANGE'
  | 'WIREGUARD_LIMITS_RANGE'
  | 'WIREGUARD_TOO_MANY_PEERS'
  | 'WIREGUARD_PLAN_CAPACITY'

/** Misuse of a WireGuard device by its caller. Bytes from the wire never cause one. */
export class WireGuardError extends MeshwrightError<WireGuardErrorCode> {}
