import net from 'node:net'
import { formatUapiSet, parseUapiAnswer, type ShownDevice, UAPI_GET, type UapiAnswer, type UapiChange } from '@meshwright/wireguard/text'
import { ROAMED_KEY, uapiPath } from './uapi-server.ts'
import { UsageError } from './usage-error.ts'

const ROAMED_LINE: RegExp = new RegExp(`^${ROAMED_KEY}=([0-9]{1,16}) (\\S+)$`)
const TIMEOUT_MS = 10_000
const MAX_ANSWER_BYTES = 64 * 1024 * 1024

/** Where a peer moved to, and when. */
export interface Roamed {
  /** Milliseconds since 1970. */
  readonly at: number
  /** `192.0.2.1:51820`. */
  readonly endpoint: string
}

/** The state of a running interface in user space, ours or another program's. @throws UsageError */
export async function readDevice(name: string): Promise<ShownDevice> {
  return (await readDeviceAndMoves(name)).device
}

/** The same, and the moves of each peer by the text of its public key, oldest first: other programs tell none. @throws UsageError */
export async function readDeviceAndMoves(name: string): Promise<{ readonly device: ShownDevice; readonly moves: ReadonlyMap<string, readonly Roamed[]> }> {
  const { answer: { errno, device }, text } = await ask(name, UAPI_GET)
  if (errno !== 0) throw new UsageError(`${name} could not be read (errno ${-errno})`, 1)
  const moves = new Map<string, Roamed[]>()
  let index = -1
  for (const line of text.split('\n')) {
    if (line.startsWith('public_key=')) index += 1
    const [, at, endpoint] = ROAMED_LINE.exec(line) ?? []
    const peer = device.peers[index]
    if (at === undefined || endpoint === undefined || peer === undefined) continue
    moves.set(peer.publicKey.text, [...(moves.get(peer.publicKey.text) ?? []), { at: Number(at), endpoint }])
  }
  return { device, moves }
}

/** Changes a running interface. @throws UsageError with the errno */
export async function changeDevice(name: string, changes: readonly UapiChange[]): Promise<void> {
  const { answer: { errno } } = await ask(name, formatUapiSet(changes))
  if (errno !== 0) throw new UsageError(`${name} refuses the change (errno ${-errno})`, 1)
}

function ask(name: string, request: string): Promise<{ readonly answer: UapiAnswer; readonly text: string }> {
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
      else resolve({ answer, text })
      socket.destroy()
    })
  })
}
