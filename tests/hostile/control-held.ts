import { expect } from 'vitest'
import { pause } from '../load/process.ts'
import type { LoadServer } from '../load/servers.ts'

// What the control server program holds, told by its own metrics. Counts say what memory cannot: garbage that the engine has not collected
// yet is no leak, and a leak of a few kilobytes is one.

/** What may be held at any moment, whatever liars do: the limits that the program states. */
const LIMITS: Readonly<Record<string, number>> = {
  meshwright_newcomers: 2_048,
  meshwright_tls_handshakes: 512,
  meshwright_strangers_reading_bytes: 6 * 1_048_576,
  meshwright_strangers_unread_bytes: 8 * 1_048_576,
  meshwright_reading_bytes: 64 * 1_048_576,
  meshwright_pending_logins: 1_024,
  meshwright_gate_waiting: 16 * (2_048 + 512), // sixteen requests of each connection
}
/** Connections that have proved nothing, and those that are about to end. */
const MOST_CONNECTIONS = 2_048 + 512
/** Those that the relay in the server has not let in. */
const RELAY_NEWCOMERS = 2_048
const LETS_GO_WITHIN_MS = 30_000

/** Nothing is held beyond what the program states as its limits. */
export async function expectBounded(server: LoadServer, withRelay = false): Promise<void> {
  for (const [name, limit] of Object.entries(LIMITS)) expect(await server.metric(name), name).toBeLessThanOrEqual(limit)
  expect(await server.metric('meshwright_connections')).toBeLessThanOrEqual(MOST_CONNECTIONS + (withRelay ? RELAY_NEWCOMERS : 0))
}

/** When liars have gone, nothing of them is held any more: no connection, channel, request or byte beyond those of `nodes` honest ones. */
export async function expectLetGo(server: LoadServer, nodes: number): Promise<void> {
  const rest: Readonly<Record<string, number>> = {
    meshwright_connections: nodes,
    meshwright_newcomers: 0,
    meshwright_tls_handshakes: 0,
    meshwright_channels: nodes,
    meshwright_requests: nodes, // each has its poll
    meshwright_map_streams: nodes,
    meshwright_reading_bytes: 0,
    meshwright_strangers_reading_bytes: 0,
    meshwright_strangers_unread_bytes: 0,
    meshwright_gate_waiting: 0,
    meshwright_waiting_requests: 0,
  }
  const held = async (): Promise<Record<string, number>> => Object.fromEntries(await Promise.all(Object.keys(rest).map(async (name) => [name, await server.metric(name)] as const)))
  const deadline = performance.now() + LETS_GO_WITHIN_MS
  let now = await held()
  while (performance.now() < deadline && Object.entries(rest).some(([name, most]) => !((now[name] ?? Number.NaN) <= most))) {
    await pause(100)
    now = await held()
  }
  expect(now).toEqual(rest)
}
