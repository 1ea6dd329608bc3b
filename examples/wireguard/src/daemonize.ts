import { spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { UsageError } from './usage-error.ts'

/** Names the descriptor on which the daemon tells its parent how it went. */
const READY_FD = 'MESHWRIGHT_WG_READY_FD'
const FIRST_FD = 3

/**
 * Starts this program with these arguments again in the background, and returns once the interface can be configured: wg-quick goes on at once. Descriptors
 * that were handed down go to the daemon; its output is kept only where LOG_LEVEL asks for one, as in wireguard-go.
 * @throws UsageError with what the daemon said when it could not start
 */
export async function startDaemon(args: readonly string[]): Promise<void> {
  const { env } = process
  const talks = env['LOG_LEVEL'] !== undefined && env['LOG_LEVEL'] !== 'silent'
  const output = talks ? 'inherit' : 'ignore'
  const handedDown = ['WG_TUN_FD', 'WG_UAPI_FD'].filter((variable) => env[variable] !== undefined)
  const script = process.argv[1]
  if (script === undefined) throw new UsageError('the program does not know its own file; use -f', 1)
  const child = spawn(process.execPath, [...process.execArgv, script, '-f', ...args], {
    detached: true,
    stdio: ['ignore', output, output, 'pipe', ...handedDown.map((variable) => Number(env[variable]))],
    env: { ...env, [READY_FD]: String(FIRST_FD), ...Object.fromEntries(handedDown.map((variable, index) => [variable, String(FIRST_FD + 1 + index)])) },
  })
  const report = child.stdio[FIRST_FD]
  let text = ''
  await new Promise<void>((resolve, reject) => {
    report?.on('data', (chunk) => {
      text += String(chunk)
      if (text.includes('\n')) resolve()
    })
    child.once('error', reject)
    child.once('exit', () => resolve())
  })
  if (report !== null && report !== undefined && 'destroy' in report) report.destroy()
  child.unref()
  const [line = ''] = text.split('\n')
  if (line !== 'ready') throw new UsageError(line === '' ? 'the daemon ended without a word; try -f' : line, 1)
}

/** In the daemon: tells the parent that the interface is ready or why it is not; `false` when there is no parent to tell. */
export function reportToParent(line: string): boolean {
  const fd = process.env[READY_FD]
  if (fd === undefined) return false
  const stream = createWriteStream('', { fd: Number(fd) })
  stream.on('error', () => stream.destroy())
  stream.end(`${line.replaceAll('\n', ' ')}\n`)
  return true
}
