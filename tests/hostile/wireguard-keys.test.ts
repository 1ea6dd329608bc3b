import { randomBytes } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort, Lab, type LabProcess, runOk, runProgram } from '../interop/lab-process.ts'
import { whyNoSpaces } from '../interop/lab-space.ts'
import { KEY_RECORDER, keysIn, recordedKeys, recorderEnvironment } from './key-search.ts'

// Two tunnels with a preshared key, at the most verbose level.
const ROOT = path.resolve(import.meta.dirname, '../..')
const koffi = await import('koffi').then(() => true, () => false)
const noDevice = whyNoSpaces() ?? (koffi ? undefined : 'the optional package koffi is not installed')
const lab = new Lab()
let program = ''
afterAll(() => lab.stop())

/** Knocks at a port behind the tunnel, through a SOCKS5 proxy; whatever comes of it, packets have gone both ways by then. */
function knock(proxy: number, host: string, port: number): Promise<void> {
  return new Promise((resolve) => {
    const socket = net.connect(proxy, '127.0.0.1', () => socket.write(Buffer.of(5, 1, 0)))
    socket.setTimeout(5_000, () => socket.destroy())
    socket.once('data', () => {
      socket.write(Buffer.from([5, 1, 0, 1, ...host.split('.').map(Number), port >> 8, port & 255]))
      socket.once('data', () => socket.destroy())
    })
    socket.on('error', () => undefined) // `close` follows
    socket.once('close', () => resolve())
  })
}

const wg = async (words: readonly string[], stdin: string = ''): Promise<string> => (await runProgram('sh', ['-c', `printf %s "$1" | "$2" "$3" ${words.join(' ')}`, 'sh', stdin, process.execPath, program])).out.trim()

/** What one end is started with. */
interface End {
  readonly name: string
  readonly port: number
  readonly secret: string
  readonly psk: string
  readonly own: string
  readonly peer: { readonly key: string; readonly port: number; readonly address: string }
}

/** Starts one end; `flags` say without a TUN device, and `inside` puts words before the program. */
function start({ name, port, secret, psk, own, peer }: End, flags: readonly string[], env: Readonly<Record<string, string>>, inside: readonly string[] = []): LabProcess {
  const file = lab.at(`${name}.conf`)
  writeFileSync(file, `[Interface]\nPrivateKey = ${secret}\nListenPort = ${port}\nAddress = ${own}/32\n[Peer]\nPublicKey = ${peer.key}\nPresharedKey = ${psk}\nAllowedIPs = ${peer.address}/32\nEndpoint = 127.0.0.1:${peer.port}\nPersistentKeepalive = 25\n`, { mode: 0o600 })
  const [command = '', ...words] = [...inside, process.execPath, '--import', KEY_RECORDER, program, '-f', '--config', file, ...flags, `${name}${process.pid}`]
  return lab.start(name, command, words, { env: { LOG_LEVEL: 'verbose', ...env } })
}

const hexOf = (keys: readonly string[]): readonly string[] => keys.map((text) => Buffer.from(text, 'base64').toString('hex'))

describe.runIf(process.platform === 'linux')('no private, preshared, handshake or session key of meshwright-wg is in its log at the most verbose level, nor in what it shows', () => {
  beforeAll(async () => {
    // Beside the packages from the registry, where koffi is found.
    program = path.join(ROOT, '.cache', 'interop', `wg-keys-${process.pid}.mjs`)
    lab.onStop(() => rmSync(program, { force: true }))
    await build({
      entryPoints: [path.join(ROOT, 'examples/wireguard/src/meshwright-wg.ts')], outfile: program, bundle: true, platform: 'node', format: 'esm', target: 'node20', conditions: ['@meshwright/source'],
      mainFields: ['module', 'main'], external: ['koffi'], logLevel: 'error', banner: { js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url)" },
    })
  })

  test('without TUN devices; then one of them has the wrong preshared key', async () => {
    const recorded = lab.at('keys')
    const [secretA, secretB, psk, wrong] = [await wg(['genkey']), await wg(['genkey']), await wg(['genpsk']), randomBytes(32).toString('base64')]
    const [a, b] = [await wg(['pubkey'], secretA), await wg(['pubkey'], secretB)]
    const [portA, portB, proxyA, proxyB, metrics] = [await freePort(), await freePort(), await freePort(), await freePort(), await freePort()]
    const endA: End = { name: 'a', port: portA, secret: secretA, psk, own: '10.9.0.1', peer: { key: b, port: portB, address: '10.9.0.2' } }
    const endB: End = { name: 'b', port: portB, secret: secretB, psk, own: '10.9.0.2', peer: { key: a, port: portA, address: '10.9.0.1' } }
    const nodeA = start(endA, ['--metrics', `127.0.0.1:${metrics}`, '--socks5', `127.0.0.1:${proxyA}`], recorderEnvironment(recorded))
    const nodeB = start(endB, ['--socks5', `127.0.0.1:${proxyB}`], recorderEnvironment(recorded))
    await lab.until('both have a session', () => [nodeA, nodeB].every((node) => node.log.includes('established')))
    await knock(proxyA, '10.9.0.2', 80)
    const counters = await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text()
    expect(counters).toContain('meshwright_')
    const told = [counters, await wg(['show', 'all']), await wg(['check', lab.at('a.conf')])]
    // Another preshared key on one side: handshakes fail, and the log tells of it (with keepalives every second they might begin anew before they are repeated).
    await nodeB.stop()
    const liar = start({ ...endB, name: 'bx', psk: wrong }, ['--socks5', `127.0.0.1:${proxyB}`], recorderEnvironment(recorded))
    await lab.until('a handshake has failed', () => liar.log.includes('handshake not answered'))
    const everything = [nodeA.log, nodeB.log, liar.log, ...told].join('\n')
    expect(nodeA.log).toContain('DEBUG')
    const kinds = recordedKeys(recorded)
    expect([...kinds.keys()].sort()).toEqual(['chain', 'private', 'session'])
    const own = hexOf([secretA, secretB, psk, wrong])
    expect(keysIn(readFileSync(lab.at('a.conf'), 'utf8'), own)).toBe(2)
    expect(keysIn(everything, [...own, ...[...kinds.values()].flat()])).toBe(0)
  })

  test.skipIf(noDevice !== undefined)(`with a TUN device, whose packets a thread of their own carries${noDevice === undefined ? '' : ` (${noDevice})`}`, async () => {
    const [recorded, planted, space] = [lab.at('tun-keys'), lab.at('plant'), `mwk${process.pid.toString(36)}`]
    const inside = ['ip', 'netns', 'exec', space]
    lab.onStop(async () => void (await runProgram('ip', ['netns', 'del', space])))
    await runOk('ip', ['netns', 'add', space])
    await runOk('ip', ['-n', space, 'link', 'set', 'lo', 'up'])
    const [secretA, secretB, psk] = [await wg(['genkey']), await wg(['genkey']), await wg(['genpsk'])]
    const [a, b] = [await wg(['pubkey'], secretA), await wg(['pubkey'], secretB)]
    const own = hexOf([secretA, secretB, psk])
    const device = start({ name: 'ta', port: 41_001, secret: secretA, psk, own: '10.9.0.1', peer: { key: b, port: 41_002, address: '10.9.0.2' } }, ['--metrics', '127.0.0.1:41003'], { KEY_RECORDER_FILE: recorded, KEY_RECORDER_PLANT: planted }, inside)
    const other = start({ name: 'tb', port: 41_002, secret: secretB, psk, own: '10.9.0.2', peer: { key: a, port: 41_001, address: '10.9.0.1' } }, ['--socks5', '127.0.0.1:41004'], { KEY_RECORDER_FILE: recorded }, inside)
    const name = `ta${process.pid}`
    await lab.until('the device is there', async () => {
      device.mustLive()
      return (await runProgram('ip', ['-n', space, 'link', 'show', name])).status === 0
    })
    await runOk('ip', ['-n', space, 'addr', 'add', '10.9.0.1/32', 'dev', name])
    await runOk('ip', ['-n', space, 'link', 'set', name, 'up'])
    await runOk('ip', ['-n', space, 'route', 'add', '10.9.0.2/32', 'dev', name])
    // Whatever comes of it, packets have gone both ways by then: nobody listens at that port of the other end.
    const asked = async (): Promise<boolean> => (await runProgram('ip', [...inside.slice(1), process.execPath, '-e', "require('net').connect(80, '10.9.0.2').on('error', (error) => console.log(error.code)).setTimeout(3000, () => process.exit())"])).out.includes('ECONNREFUSED')
    await lab.until('the other end answers', asked)
    const told = [await wg(['show', 'all']), await runOk('ip', [...inside.slice(1), process.execPath, '-e', "fetch('http://127.0.0.1:41003/metrics').then((answer) => answer.text()).then(console.log)"])]
    expect(told[1]).toMatch(/meshwright_lane\{[^}]*worker/)
    const kinds = recordedKeys(recorded)
    expect([...kinds.keys()].sort()).toEqual(['chain', 'private', 'session'])
    const everything = (): string => [device.log, other.log, ...told].join('\n')
    const all = (): ReadonlySet<string> => new Set([...own, ...[...recordedKeys(recorded).values()].flat()])
    expect(device.log).toContain('DEBUG')
    expect(keysIn(everything(), all())).toBe(0)
    // The search finds what is there: a fault in that thread that tells its key stands in the log.
    writeFileSync(planted, '')
    await lab.until('the thread has died of it', async () => {
      await asked()
      return device.log.includes('a fault that says more than it should')
    })
    await lab.until('the other end answers again', asked)
    expect(keysIn(everything(), all())).toBe(1)
    expect(device.log.length).toBeLessThan(60_000)
  }, 300_000)
})
