import { MeshwrightError } from '@meshwright/core'

/** Codes of the errors that `@meshwright/control-server` throws on misuse by its caller. */
export type ControlServerErrorCode = 'CONTROL_SERVER_CONFIG' | 'CONTROL_SERVER_COMMIT'

/** Misuse of the server by the program around it. */
export class ControlServerError extends MeshwrightError<ControlServerErrorCode> {}
