import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { MachinePrivateKey, NodePrivateKey } from '@meshwright/crypto'
import { afterEach, expect, test } from 'vitest'
import { acceptControl } from './control-accept.ts'
import { LastMap } from './last-map.ts'
import { systemRandom } from './random.ts'
import { startMeshNode } from './start-mesh-node.ts'
import { StateFileError } from './state-file.ts'
import { NodeStore } from './stored-node.ts'

// The disk under a node that runs: its folder goes away and comes back, which refuses writes to any user, as a full disk does.
const cleanups: (() => void)[] = []

afterEach(() => {
  for (const cleanup of cleanups.splice(0).reverse()) cleanup()
})

function disk(): { readonly file: string; takeAway(): void; bringBack(): void } {
  const outer = mkdtempSync(path.join(tmpdir(), 'meshwright-disk-'))
  cleanups.push(() => rmSync(outer, { recursive: true, force: true }))
  const [folder, aside] = [path.join(outer, 'folder'), path.join(outer, 'aside')]
  mkdirSync(folder)
  return {
    file: path.join(folder, 'tailscaled.state'),
    takeAway() {
      renameSync(folder, aside)
      writeFileSync(folder, 'not a folder')
    },
    bringBack() {
      rmSync(folder)
      renameSync(aside, folder)
    },
  }
}

/** A control server that lets everybody in, and does so when it is told. */
async function controlServer(beforeAnswer: () => void): Promise<string> {
  const machineKey = MachinePrivateKey.generate(systemRandom)
  const server = http.createServer((_request, response) => void response.end(JSON.stringify({ publicKey: machineKey.publicKey().text })))
  server.on('upgrade', (request, socket, head) => {
    acceptControl(request, socket, head, { machineKey, random: systemRandom }).then(({ session }) => {
      cleanups.push(() => session.destroy())
      session.on('stream', (stream, headers) => {
        if (headers[':path'] !== '/machine/register') return stream.respond({ ':status': 404 }, { endStream: true })
        beforeAnswer()
        stream.respond({ ':status': 200 })
        stream.end(JSON.stringify({ MachineAuthorized: true, User: { ID: 1 }, Login: { ID: 1 }, NodeKeyExpired: false, AuthURL: '', Error: '' }))
      })
    }, () => undefined)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  cleanups.push(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

test('a state file that cannot be written while a node runs is told, and written later; the node goes on', async () => {
  const { file, takeAway, bringBack } = disk()
  let asked = 0
  const controlUrl = await controlServer(() => {
    asked += 1
    if (asked === 1) takeAway()
  })
  const lines: string[] = []
  const node = await startMeshNode({ controlUrl, authKey: 'key', hostname: 'here', stateFile: file, log: (level, line) => lines.push(`${level} ${line}`) })
  await expect.poll(() => lines.join('\n'), { timeout: 30_000 }).toContain('warn cannot write the state file')
  expect(node.status().state).toBe('starting') // logged in: it asks for its map
  bringBack()
  await node.close()
  expect(new NodeStore(file).stored.control?.nodeKey).toBeInstanceOf(NodePrivateKey)
})

test('what could not be stored is stored as soon as that is asked for again, and is not asked of the disk otherwise', () => {
  const { file, takeAway, bringBack } = disk()
  const [machineKey, nodeKey] = [MachinePrivateKey.generate(systemRandom), NodePrivateKey.generate(systemRandom)]
  const store = new NodeStore(file)
  takeAway()
  store.catchUp()
  expect(() => store.saveControl({ machineKey, nodeKey })).toThrow(StateFileError)
  expect(() => store.catchUp()).toThrow(StateFileError)
  bringBack()
  store.catchUp()
  expect(new NodeStore(file).stored.control?.nodeKey?.formatSecret()).toBe(nodeKey.formatSecret())
  takeAway()
  store.catchUp()
})

test('a kept map that cannot be removed is told of', () => {
  const { file } = disk()
  const lines: string[] = []
  const map = new LastMap(file, () => ({ control: undefined, controlUrl: '' }), (line) => lines.push(line))
  mkdirSync(`${file}.map`) // a folder, where a file is to be removed
  map.forget()
  expect(lines.join()).toMatch(/cannot be removed/)
})
