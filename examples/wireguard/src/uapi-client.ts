import net from 'node:net'
import { formatUapiSet, parseUapiAnswer, type ShownDevice, UAPI_GET, type UapiAnswer, type UapiChange } from '@meshwright/wireguard/text'
import { uapiPath } from './uapi-server.ts'
import { UsageError } from './usage-error.ts'

const TIMEOUT_MS = 10_000
const MAX_ANSWER_BYTES = 64 * 1024 * 1024

/** The state of a running interface in user space, ours or another program's. @throws UsageError */
export async function readDevice(name: string): Promise<ShownDevice> {
  const { errno, device } = await ask(name, UAPI_GET)
  if (errno !== 0) throw new UsageError(`${name} could not be read (errno ${-errno})`, 1)
  return device
}

/** Changes a running interface. @throws UsageError with the errno */
export async function changeDevice(name: string, changes: readonly UapiChange[]): Promise<void> {
  const { errno } = await ask(name, formatUapiSet(changes))
  if (errno !== 0) throw new UsageError(`${name} refuses the change (errno ${-errno})`, 1)
}

function ask(name: string, request: string): Promise<UapiAnswer> {
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => reject(new UsageError(`${name}: ${why}`, 1))
    const socket = net.connect(uapiPath(name), () => socket.write(request))
    let text = ''
    socket.setEncoding('utf8')
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('no answer')))
    socket.on('error', (error: NodeJS.ErrnoException) => fail(error.code === 'ENOENT' ? 'no such interface in user space' : error.message))
    socket.on('close', () => fail('the connection was closed without an answer'))
    socket.on('data', (chunk: string) => {
      text += chunk
      if (text.length > MAX_ANSWER_BYTES) socket.destroy(new Error('the answer is too long'))
      if (socket.destroyed || !text.endsWith('\n\n')) return
      const answer = parseUapiAnswer(text, name)
      if (answer === undefined) fail('the answer is not understood')
      else resolve(answer)
      socket.destroy()
    })
  })
}
