import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { whyNoSpaces } from '../interop/lab-space.ts'
import { KEY_RECORDER, keysIn, recordedKeys } from './key-search.ts'
import { FRIEND_IP, NodeRig, VICTIM_IP } from './node-rig.ts'

// A node with a TUN device: its packets are carried by a thread of its own, which holds the keys of all sessions in the memory of a WebAssembly module.
const koffi = await import('koffi').then(() => true, () => false)
const reason = whyNoSpaces() ?? (koffi ? undefined : 'the optional package koffi is not installed')

const folder = mkdtempSync(path.join(os.tmpdir(), 'meshwright-tun-keys-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const VERBS = [['status'], ['status', '--json'], ['ping', '--c', '1', FRIEND_IP], ['ping', '--c', '1', '--tsmp', FRIEND_IP], ['ping', '--c', '1', '--icmp', FRIEND_IP], ['path', FRIEND_IP], ['path', '--json', FRIEND_IP], ['metrics'], ['debug', 'prefs'], ['debug', 'netmap'], ['debug', 'denied'], ['netcheck'], ['dns', 'status', '--json'], ['whois', FRIEND_IP]]

describe.skipIf(reason !== undefined)(`keys of our node with a TUN device${reason === undefined ? '' : ` (${reason})`}`, () => {
  test.each(['openssl-ffi', 'wasm'])('are in no log line, answer or error of the thread with the packets, at any level: private ones, and those of every handshake and session, by %s', async (provider) => {
    const [recorded, planted] = [path.join(folder, `${provider}.keys`), path.join(folder, `${provider}.plant`)]
    const rig = new NodeRig({}, { NODE_OPTIONS: `--import=${KEY_RECORDER}`, MESHWRIGHT_CRYPTO: provider, KEY_RECORDER_FILE: recorded, KEY_RECORDER_PLANT: planted }, true)
    try {
      await rig.start()
      const status = await rig.victim.cli('status', '--json')
      expect(JSON.parse(status)).toMatchObject({ TUN: true, Meshwright: { DataPlane: { Lane: 'worker', Restarts: 0 } } })
      const said = [status]
      const page = (): Promise<string | undefined> => rig.friend.fetch(`http://${VICTIM_IP}:${rig.openPort}/`).then((answer) => answer.text(), () => undefined)
      await rig.lab.until('the friend is answered', async () => (await page())?.startsWith('victim to '))
      for (const words of VERBS) {
        const { out, err } = await rig.victim.run(words)
        said.push(out, err)
      }
      const kinds = recordedKeys(recorded)
      expect([...kinds.keys()].sort()).toEqual(['chain', 'private', 'session'])
      for (const keys of kinds.values()) expect(keys.length).toBeGreaterThan(3)
      const everything = (): string => [...said, rig.victim.log].join('\n')
      const all = (): ReadonlySet<string> => new Set([...recordedKeys(recorded).values()].flat())
      expect(rig.victim.log).toContain('packets are carried by a thread of their own')
      expect(keysIn(everything(), all())).toBe(0)
      // The search finds what is there: a fault in that thread that tells its key stands in the log, as every death of it does.
      writeFileSync(planted, '')
      await rig.lab.until('the thread has died of it', async () => {
        await page()
        return rig.victim.log.includes('the data plane died (a fault that says more than it should')
      })
      expect(keysIn(rig.victim.log, recordedKeys(recorded).get('session') ?? [])).toBe(1)
      // It was started again: new sessions, whose keys are nowhere either; and that was all of the log.
      await rig.lab.until('the friend is answered again', async () => (await page())?.startsWith('victim to '))
      said.push(await rig.victim.cli('status', '--json'), await rig.victim.cli('metrics'))
      expect(keysIn(everything(), all())).toBe(1)
      expect(rig.victim.log.length).toBeLessThan(60_000)
    } finally {
      await rig.stop()
    }
  }, 300_000)
})
