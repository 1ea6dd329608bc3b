import { instant } from '@meshwright/core'
import { NodePrivateKey } from '@meshwright/crypto'
import { systemRandom } from '@meshwright/runtime-node/relay'
import { expect, test } from 'vitest'
import { MeshLinks } from './mesh-links.ts'

test('a relay that is away is dialled again and again, and nothing of it piles up', async () => {
  const warnings: Error[] = []
  const onWarning = (warning: Error): number => warnings.push(warning)
  process.on('warning', onWarning)
  const lines: string[] = []
  const links = new MeshLinks(
    {
      targets: [{ host: '127.0.0.1', port: 1, plainHttp: true }], // nobody is there
      privateKey: NodePrivateKey.generate(systemRandom),
      meshKey: new Uint8Array(32),
      clock: () => instant(performance.now()),
      log: (line) => lines.push(line),
      reconnectMs: 1,
    },
    () => expect.fail('no link ever stood'),
  )
  links.start()
  await expect.poll(() => lines.length, { timeout: 30_000 }).toBeGreaterThan(15)
  links.close()
  process.off('warning', onWarning)
  expect(lines.every((line) => line.startsWith('mesh: '))).toBe(true)
  expect(warnings).toEqual([]) // Node warns of more than ten listeners
})
