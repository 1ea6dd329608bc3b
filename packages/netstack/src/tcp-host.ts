import type { CloseReason } from './netstack-io.ts'
import type { ChunkPool } from './send-buffer.ts'
import type { PacketOutlet } from './tcp-output.ts'

/** What a connection needs of its stack; calls only append to queues, so nothing re-enters the connection. */
export interface TcpHost<Connection> extends PacketOutlet {
  /** Memory for what connections have to send. */
  readonly chunks: ChunkPool
  opened(connection: Connection): void
  data(connection: Connection, bytes: Uint8Array, owned: boolean): void
  ended(connection: Connection): void
  writable(connection: Connection): void
  /** The application's part is over (the connection may linger in TIME-WAIT). */
  closed(connection: Connection, reason: CloseReason): void
}
