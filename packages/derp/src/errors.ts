import { MeshwrightError } from '@meshwright/core'

/** Codes of the errors that `@meshwright/derp` throws on misuse. */
export type DerpErrorCode = 'DERP_PACKET_TOO_LARGE' | 'DERP_CONNECTION_EXISTS' | 'DERP_OPTION_INVALID'

/** Misuse of a relay machine or codec by the caller. */
export class DerpError extends MeshwrightError<DerpErrorCode> {}
