import { readdirSync } from 'node:fs'
import { formatDump, formatShow } from '@meshwright/wireguard/text'
import { readDevice } from './uapi-client.ts'
import { UAPI_FOLDER } from './uapi-server.ts'
import { UsageError } from './usage-error.ts'

/** Names of the interfaces that have a socket. */
export function interfaceNames(): string[] {
  try {
    return readdirSync(UAPI_FOLDER)
      .flatMap((file) => (file.endsWith('.sock') ? [file.slice(0, -5)] : []))
      .sort()
  } catch {
    return [] // no folder, no interface
  }
}

/** `show [all|interfaces|NAME [dump]]`: what `wg show` prints, of interfaces in user space. @throws UsageError */
export async function show(args: readonly string[]): Promise<string> {
  const [name = 'all', form] = args
  if (args.length > 2 || (form !== undefined && form !== 'dump')) throw new UsageError('usage: meshwright-wg show [all|interfaces|NAME [dump]]')
  if (name === 'interfaces') return `${interfaceNames().join(' ')}\n`
  const names = name === 'all' ? interfaceNames() : [name]
  const texts: string[] = []
  for (const each of names) {
    const device = await readDevice(each).catch((error: unknown) => {
      // Of "all", those that a killed program left are passed over.
      if (name === 'all') return undefined
      throw error
    })
    if (device === undefined) continue
    if (form === undefined) texts.push(formatShow(device, Date.now()))
    else texts.push(name === 'all' ? formatDump(device).replace(/^(?=.)/gm, `${each}\t`) : formatDump(device))
  }
  return texts.join(form === undefined ? '\n' : '')
}
