import { type Dir, opendirSync } from 'node:fs'
import { formatDump, formatShow, type ShownDevice } from '@meshwright/wireguard/text'
import { readDevice } from './uapi-client.ts'
import { UAPI_FOLDER } from './uapi-server.ts'
import { UsageError } from './usage-error.ts'

/** Columns of the dump's first line by the name of a field. */
const DEVICE_FIELDS: Readonly<Record<string, number>> = { 'private-key': 0, 'public-key': 1, 'listen-port': 2, fwmark: 3 }
/** Columns of the dump's other lines. */
const PEER_FIELDS: Readonly<Record<string, readonly number[]>> = {
  peers: [0], 'preshared-keys': [0, 1], endpoints: [0, 2], 'allowed-ips': [0, 3], 'latest-handshakes': [0, 4], transfer: [0, 5, 6], 'persistent-keepalive': [0, 7],
}
const ALLOWED_IPS_COLUMN = 3

/** Names of the interfaces that have a socket, in the order of the folder, which is that of `wg` too. */
export function interfaceNames(): string[] {
  let folder: Dir
  try {
    folder = opendirSync(UAPI_FOLDER)
  } catch {
    return [] // no folder, no interface
  }
  const names: string[] = []
  for (let entry = folder.readSync(); entry !== null; entry = folder.readSync()) if (entry.name.endsWith('.sock')) names.push(entry.name.slice(0, -5))
  folder.closeSync()
  return names
}

/** `show [all|interfaces|NAME [FIELD]]`: what `wg show` prints, byte for byte, of interfaces in user space. @throws UsageError */
export async function show(args: readonly string[]): Promise<string> {
  const [name = 'all', field] = args
  if (args.length > 2 || name.startsWith('-') || (field !== undefined && field !== 'dump' && DEVICE_FIELDS[field] === undefined && PEER_FIELDS[field] === undefined)) {
    throw new UsageError(`usage: meshwright-wg show [all|interfaces|NAME [FIELD]]; FIELD is one of dump, ${[...Object.keys(DEVICE_FIELDS), ...Object.keys(PEER_FIELDS)].join(', ')}`)
  }
  if (name === 'interfaces') return `${interfaceNames().join(' ')}\n`
  const texts: string[] = []
  for (const each of name === 'all' ? interfaceNames() : [name]) {
    const device = await readDevice(each).catch((error: unknown) => {
      // Of "all", those that a killed program left are passed over.
      if (name === 'all') return undefined
      throw error
    })
    if (device === undefined) continue
    if (field === undefined) texts.push(formatShow(device, Date.now()))
    else texts.push(name === 'all' ? fieldOf(device, field).replace(/^(?=.)/gm, `${each}\t`) : fieldOf(device, field))
  }
  return texts.join(field === undefined ? '\n' : '')
}

/** One field of an interface or of each of its peers, as `wg show NAME FIELD` prints it. */
export function fieldOf(device: ShownDevice, field: string): string {
  const dump = formatDump(device)
  if (field === 'dump') return dump
  const [own = [], ...peers] = dump.split('\n').filter((line) => line !== '').map((line) => line.split('\t'))
  const column = DEVICE_FIELDS[field]
  if (column !== undefined) return `${own[column] ?? ''}\n`
  const columns = PEER_FIELDS[field] ?? []
  return peers.map((peer) => `${columns.map((each) => (each === ALLOWED_IPS_COLUMN ? peer[each]?.replaceAll(',', ' ') : peer[each])).join('\t')}\n`).join('')
}
