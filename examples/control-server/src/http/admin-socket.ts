import { chmodSync, mkdirSync, rmSync, statSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import path from 'node:path'
import { type AdminCommand, decodeAdminCommand } from '@meshwright/control-server'
import { MAX_POLICY_BYTES } from '../bounded-file.ts'
import type { ControlService } from '../control-service.ts'
import { Failure, reasonOf } from '../failure.ts'
import { VERSION } from '../version.ts'
import { BODY_WITHIN_MS, readBody } from './body.ts'

/** Room for the longest policy with all its quotes and line feeds written as JSON does. */
const MAX_COMMAND_BYTES = 2 * MAX_POLICY_BYTES + 65_536
const MAX_SOCKET_PATH_BYTES = process.platform === 'linux' ? 107 : 103

/**
 * Serves administrators on this machine: `POST /command` with a JSON command on a Unix socket. Who may open the socket may do
 * everything, so its permissions are the only lock.
 * @param refuse says why a command is not for this server, such as setting a policy that stands in a file
 */
export async function serveAdminSocket(file: string, mode: number, service: ControlService, refuse: (command: AdminCommand) => { message: string; remedy: string } | undefined): Promise<http.Server> {
  const bytes = Buffer.byteLength(file)
  if (bytes > MAX_SOCKET_PATH_BYTES) {
    // The system would cut it, and it would be another file.
    throw new Failure(`unix_socket: the path is ${bytes} bytes long, this system takes ${MAX_SOCKET_PATH_BYTES}`, { remedy: 'name a shorter one', status: 2 })
  }
  await clearStaleSocket(file)
  const server = http.createServer((request, response) => {
    const answer = (status: number, body: unknown): void => {
      response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body ?? null))
    }
    if (request.url === '/version') return answer(200, { version: VERSION })
    if (request.url !== '/command' || request.method !== 'POST') return answer(404, { message: 'not found' })
    void readBody(request, { bytes: MAX_COMMAND_BYTES, withinMs: BODY_WITHIN_MS, budgets: [] }).then(async (bytes) => {
      if (bytes === 'too-long') {
        response.once('finish', () => request.destroy())
        return answer(413, tooLong())
      }
      const command = typeof bytes === 'string' ? undefined : commandIn(bytes)
      if (command === undefined) return answer(400, { message: 'not a command of this version', remedy: 'use the command line program of the same version as the server' })
      if (command.command === 'clearPolicy') return answer(400, { message: 'not a command of this version' })
      if ('policy' in command && Buffer.byteLength(command.policy) > MAX_POLICY_BYTES) return answer(413, tooLong())
      const refusal = refuse(command)
      if (refusal !== undefined) return answer(400, refusal)
      const { status, body } = await service.command(command)
      answer(status, body)
    }).catch((error: unknown) => answer(500, { message: `the command failed: ${reasonOf(error)}`, remedy: 'this is a fault of the server: please report it' }))
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(new Failure(`cannot listen on the socket ${file}: ${reasonOf(error)}`, { remedy: 'set unix_socket to a path that this user may write', cause: error })))
    const before = process.umask(0o777 & ~mode) // the socket is made within `listen`, and must not be open to others for a moment
    try {
      server.listen(file, resolve)
    } finally {
      process.umask(before)
    }
  })
  chmodSync(file, mode) // execution bits, which a new socket has not
  return server
}

function tooLong(): { readonly message: string; readonly remedy: string } {
  return { message: `the policy is longer than ${MAX_POLICY_BYTES / 1_048_576} MiB`, remedy: 'that is the most that is read' }
}

function commandIn(bytes: Uint8Array): AdminCommand | undefined {
  try {
    return decodeAdminCommand(JSON.parse(Buffer.from(bytes).toString('utf8')))
  } catch {
    return undefined // not JSON: answered with 400
  }
}

/** A socket that nobody listens on is left over from a crash; one that answers belongs to another server. */
async function clearStaleSocket(file: string): Promise<void> {
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true })
  let stat
  try {
    stat = statSync(file)
  } catch {
    return // nothing is there
  }
  if (!stat.isSocket()) throw new Failure(`${file} exists and is no socket`, { remedy: 'name another path as unix_socket', status: 2 })
  const alive = await new Promise<boolean>((resolve) => {
    const probe = net.connect(file)
    probe.once('connect', () => resolve(true)).once('error', () => resolve(false))
    probe.once('connect', () => probe.destroy())
  })
  if (alive) throw new Failure(`another server listens on ${file}`, { remedy: 'stop it first, or name another path as unix_socket' })
  rmSync(file)
}
