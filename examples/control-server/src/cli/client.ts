import http from 'node:http'
import type { AdminCommand, AdminProblem } from '@meshwright/control-server'
import { Failure, reasonOf } from '../failure.ts'

/** Puts a command to the server that listens on a socket. @throws Failure with the server's reason and remedy */
export async function ask(socketPath: string, command: AdminCommand): Promise<Record<string, unknown>> {
  const { status, body } = await post(socketPath, command)
  if (status === 200 && typeof body === 'object' && body !== null) return { ...body }
  const problem: Partial<AdminProblem> = typeof body === 'object' && body !== null ? body : {}
  const places = (problem.diagnostics ?? []).map((found) => `  ${found.line === undefined ? '' : `line ${found.line}, column ${found.column ?? 1}: `}${found.message}`)
  throw new Failure([problem.message ?? `the server answered ${status}`, ...places].join('\n'), problem.remedy === undefined ? {} : { remedy: problem.remedy })
}

function post(socketPath: string, command: AdminCommand): Promise<{ readonly status: number; readonly body: unknown }> {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, path: '/command', method: 'POST', headers: { 'Content-Type': 'application/json' } }, (response) => {
      const parts: Buffer[] = []
      response.on('data', (part: Buffer) => parts.push(part))
      response.once('error', reject)
      response.once('end', () => {
        try {
          resolve({ status: response.statusCode ?? 0, body: JSON.parse(Buffer.concat(parts).toString('utf8')) })
        } catch (error) {
          reject(new Failure(`the server's answer cannot be read: ${reasonOf(error)}`, { cause: error }))
        }
      })
    })
    request.once('error', (error) => {
      const code = 'code' in error ? error.code : undefined
      const denied = code === 'EACCES' || code === 'EPERM'
      reject(
        new Failure(denied ? `no permission to use ${socketPath}` : `no control server answers on ${socketPath}`, {
          remedy: denied ? 'run this as the user of the server, or a member of its group' : 'start it with: meshwright-control serve --config FILE, and name the same file here',
          cause: error,
        }),
      )
    })
    request.end(JSON.stringify(command))
  })
}
