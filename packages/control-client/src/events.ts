import type { Login, PingRequest, User } from '@meshwright/control-protocol'
import type { ControlState } from './control-state.ts'
import type { NetworkMap } from './network-map.ts'

/** What the world tells a control client about its requests. Ids are those of the `request` outputs; unknown ones are ignored. */
export type ControlResponseInput =
  /** Status and headers have come. */
  | { readonly type: 'response'; readonly id: number; readonly status: number; readonly retryAfter?: string }
  /** A part of the body has come. The bytes belong to the client from now on. */
  | { readonly type: 'chunk'; readonly id: number; readonly bytes: Uint8Array }
  /** The body is complete. */
  | { readonly type: 'end'; readonly id: number }
  /** There is no connection, it broke, or the server reset the request. */
  | { readonly type: 'failed'; readonly id: number; readonly message: string }

/** Everything that can be fed to a control client. */
export type ControlClientInput = ControlResponseInput

/** Why something at the control server did not work. None of these ends the client: it tries again by itself. */
export type ControlProblemCode =
  | 'CONTROL_UNREACHABLE'
  | 'CONTROL_LOGIN_REFUSED'
  | 'CONTROL_LOGIN_FAILED'
  | 'CONTROL_RATE_LIMITED'
  | 'CONTROL_NODE_UNKNOWN'
  | 'CONTROL_MAP_REFUSED'
  | 'CONTROL_MAP_UNREADABLE'
  | 'CONTROL_MAP_SILENT'
  | 'CONTROL_UPDATE_FAILED'
  | 'CONTROL_LOGOUT_FAILED'

/** What a control client owes. */
export type ControlClientOutput =
  /** Send this inside the Noise channel and report with inputs of the same id. With `stream`, hand on each chunk as it comes. */
  | {
      readonly type: 'request'
      readonly id: number
      readonly method: 'GET' | 'HEAD' | 'POST'
      readonly path: string
      readonly headers: Readonly<Record<string, string>>
      readonly body: Uint8Array | undefined
      readonly stream: boolean
    }
  /** Reset this request: nobody waits for it any more. */
  | { readonly type: 'cancel'; readonly id: number }
  /** Show this URL to the user, who must visit it to go on. */
  | { readonly type: 'openUrl'; readonly url: string }
  /** The node is registered with the key of the last `saveState`. */
  | { readonly type: 'loginFinished'; readonly user: User | undefined; readonly login: Login | undefined }
  /** Logged out: the node key is gone. */
  | { readonly type: 'loggedOut' }
  /** A new network map: apply it whole. */
  | { readonly type: 'netmap'; readonly map: NetworkMap }
  /** The node key has expired: stop the traffic, and log in again. */
  | { readonly type: 'keyExpired' }
  /** The server has prolonged the expired key. */
  | { readonly type: 'keyRenewed' }
  /** Whether the map is fresh: true from the first frame of a poll until the poll ends. */
  | { readonly type: 'polling'; readonly up: boolean }
  /** The server has taken all that this node says of itself: see `ControlClient.isTold`. */
  | { readonly type: 'told' }
  /** The server wants a ping or a c2n answer: see `PingRequest`, answer with `answerPing`. */
  | { readonly type: 'ping'; readonly request: PingRequest }
  /** Store this before doing anything else. It holds secrets. */
  | { readonly type: 'saveState'; readonly state: ControlState }
  /** Something failed; `message` is for people. `retryInMs`: when it is tried again, undefined when only `login` helps. */
  | { readonly type: 'problem'; readonly code: ControlProblemCode; readonly message: string; readonly retryInMs: number | undefined }
