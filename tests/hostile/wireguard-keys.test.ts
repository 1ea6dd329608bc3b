import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { build } from 'esbuild'
import { afterAll, expect, test } from 'vitest'
import { freePort, Lab, type LabProcess, runProgram } from '../interop/lab-process.ts'
import { KEY_RECORDER, keysIn, recordedKeys, recorderEnvironment } from './key-search.ts'

// Two tunnels without TUN devices, with a preshared key, at the most verbose level; then one of them with the wrong key.
const ROOT = path.resolve(import.meta.dirname, '../..')
const lab = new Lab()
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

test.runIf(process.platform === 'linux')('no private, preshared, handshake or session key of meshwright-wg is in its log at the most verbose level, nor in what it shows', async () => {
  const program = lab.at('meshwright-wg.mjs')
  await build({
    entryPoints: [path.join(ROOT, 'examples/wireguard/src/meshwright-wg.ts')], outfile: program, bundle: true, platform: 'node', format: 'esm', target: 'node20', conditions: ['@meshwright/source'],
    mainFields: ['module', 'main'], external: ['koffi'], logLevel: 'error', banner: { js: "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url)" },
  })
  const wg = async (words: readonly string[], stdin: string = ''): Promise<string> => (await runProgram('sh', ['-c', `printf %s "$1" | "$2" "$3" ${words.join(' ')}`, 'sh', stdin, process.execPath, program])).out.trim()
  const [secretA, secretB, psk, wrong] = [await wg(['genkey']), await wg(['genkey']), await wg(['genpsk']), randomBytes(32).toString('base64')]
  const [a, b] = [await wg(['pubkey'], secretA), await wg(['pubkey'], secretB)]
  const [portA, portB, proxyA, proxyB, metrics] = [await freePort(), await freePort(), await freePort(), await freePort(), await freePort()]
  const start = (name: string, port: number, proxy: number, secret: string, peer: string, shared: string, own: string, other: string, toPort: number): LabProcess => {
    const file = lab.at(`${name}.conf`)
    writeFileSync(file, `[Interface]\nPrivateKey = ${secret}\nListenPort = ${port}\nAddress = ${own}/32\n[Peer]\nPublicKey = ${peer}\nPresharedKey = ${shared}\nAllowedIPs = ${other}/32\nEndpoint = 127.0.0.1:${toPort}\nPersistentKeepalive = 25\n`, { mode: 0o600 })
    return lab.start(name, process.execPath, ['--import', KEY_RECORDER, program, '-f', '--config', file, '--metrics', `127.0.0.1:${name.startsWith('a') ? metrics : 0}`, '--socks5', `127.0.0.1:${proxy}`, `${name}${process.pid}`], { env: { LOG_LEVEL: 'verbose', ...recorderEnvironment(lab.at('keys')) } })
  }
  const nodeA = start('a', portA, proxyA, secretA, b, psk, '10.9.0.1', '10.9.0.2', portB)
  const nodeB = start('b', portB, proxyB, secretB, a, psk, '10.9.0.2', '10.9.0.1', portA)
  await lab.until('both have a session', () => [nodeA, nodeB].every((node) => node.log.includes('established')))
  await knock(proxyA, '10.9.0.2', 80)
  const counters = await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text()
  expect(counters).toContain('meshwright_')
  const told = [counters, await wg(['show', 'all']), await wg(['check', lab.at('a.conf')])]
  // Another preshared key on one side: handshakes fail, and the log tells of it (with keepalives every second they might begin anew before they are repeated).
  await nodeB.stop()
  const liar = start('bx', portB, proxyB, secretB, a, wrong, '10.9.0.2', '10.9.0.1', portA)
  await lab.until('a handshake has failed', () => liar.log.includes('handshake not answered'))
  const everything = [nodeA.log, nodeB.log, liar.log, ...told].join('\n')
  expect(nodeA.log).toContain('DEBUG')
  const kinds = recordedKeys(lab.at('keys'))
  expect([...kinds.keys()].sort()).toEqual(['chain', 'private', 'session'])
  const own = [secretA, secretB, psk, wrong].map((text) => Buffer.from(text, 'base64').toString('hex'))
  expect(keysIn(readFileSync(lab.at('a.conf'), 'utf8'), own)).toBe(2)
  expect(keysIn(everything, [...own, ...[...kinds.values()].flat()])).toBe(0)
})
