// An interface on the worker lane whose worker can be made to die, run inside a network namespace. Commands come as lines of JSON.
import readline from 'node:readline'
import { formatHex } from '@meshwright/core'
import { type DataPlane, isDataPlaneWorker, parseLaneMode, runDataPlaneWorker, startDataPlane } from '@meshwright/runtime-node/dataplane'
import { parseUapi } from '@meshwright/wireguard/text'

/** What may be asked. */
export type DataPlaneCommand = { readonly op: 'set'; readonly lines: readonly string[] } | { readonly op: 'fail' | 'hang' } | { readonly op: 'status' } | { readonly op: 'close' }

/** How it is doing. */
export interface DataPlaneAnswer {
  readonly restarts: number
  readonly established: readonly string[]
  readonly log: readonly string[]
  readonly offloads: Readonly<Record<string, boolean>>
  readonly trouble: string
  /** Counters that never go back: of the lane, and of the peers' bytes. */
  readonly counted: readonly number[]
}

const log: string[] = []

async function answer(plane: DataPlane, command: DataPlaneCommand): Promise<DataPlaneAnswer> {
  if (command.op === 'set') {
    const request = parseUapi(['set=1', ...command.lines])
    if (request.type !== 'set' || request.errno !== 0 || (await plane.apply(request.changes)) !== 0) throw new Error('not set')
  } else if (command.op === 'fail' || command.op === 'hang') plane.testWorker(command.op)
  const status = command.op === 'status' ? await plane.status().catch(() => undefined) : undefined
  return {
    restarts: status?.restarts ?? -1,
    established: status?.device.peers.filter(({ state }) => state === 'established').map(({ publicKey }) => formatHex(publicKey.bytes)) ?? [],
    log,
    offloads: { ...status?.lane.offloads },
    trouble: status?.trouble ?? '',
    counted: status === undefined ? [] : [status.lane.counters.tunReads, status.lane.counters.udpDatagrams, ...status.device.peers.flatMap(({ receivedBytes, sentBytes }) => [receivedBytes, sentBytes])],
  }
}

async function main(name: string, mode: string): Promise<void> {
  const plane = await startDataPlane({
    name, mtu: 1420, mode: parseLaneMode(mode), workerUrl: new URL(import.meta.url), hungMs: 5_000,
    log: (level, line) => void (level === 'error' && log.push(line)), onGone: () => process.exit(0),
  })
  process.stdout.write('"ready"\n')
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command: DataPlaneCommand = JSON.parse(line)
    if (command.op === 'close') break
    process.stdout.write(`${JSON.stringify(await answer(plane, command))}\n`)
  }
  await plane.close()
  process.exit(0)
}

if (isDataPlaneWorker()) runDataPlaneWorker()
else void main(process.argv[2] ?? 'wg0', process.argv[3] ?? 'offload')
