import { existsSync, unlinkSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { type Lab, runOk, runProgram } from './lab-process.ts'
import { OuterWatch } from './outer-watch.ts'

// A program for the namespace: hands loopback connections to a socket file, and serves a page that says where it came from.
const HELPER = `
import http from 'node:http'
import net from 'node:net'
const [name, webPort, forwardPort, socketFile] = process.argv.slice(2)
http.createServer((request, response) => response.end(name + ' to ' + request.socket.remoteAddress.replace('::ffff:', ''))).listen(Number(webPort), '::', () => {
  if (socketFile === undefined) return console.log('listening')
  net.createServer((client) => {
    const server = net.connect(socketFile)
    client.pipe(server)
    server.pipe(client)
    for (const [a, b] of [[client, server], [server, client]]) a.on('error', () => b.destroy()).on('close', () => b.destroy())
  }).listen(Number(forwardPort), '127.0.0.1', () => console.log('listening'))
})
`

/** The port of the page that every space serves on all its addresses. */
export const SPACE_WEB_PORT = 80

let made = 0

/** Why there can be no spaces here; `undefined` when there can. */
export function whyNoSpaces(): string | undefined {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'network namespaces need Linux and root'
  return existsSync('/dev/net/tun') ? undefined : 'TUN devices need /dev/net/tun'
}

/** A computer of its own: a network namespace, joined to this one by a wire, with a page on port 80 that tells its name. */
export class Space {
  readonly name: string
  readonly #lab: Lab
  readonly #label: string

  private constructor(lab: Lab, label: string, name: string) {
    this.#lab = lab
    this.#label = label
    this.name = name
  }

  /**
   * @param url a server on loopback here, `http://127.0.0.1:PORT`, that programs in the space reach under the same URL
   * @param addresses more addresses that the space has, as prefixes
   */
  static async make(lab: Lab, label: string, options: { readonly url?: string; readonly addresses?: readonly string[] } = {}): Promise<Space> {
    made += 1
    const name = `mwf${process.pid.toString(36)}${made.toString(36)}`
    const space = new Space(lab, label, name)
    lab.onStop(() => space.#remove())
    const [inside, outside, prefix] = [`${name}i`, `${name}o`, await freePrefix()]
    await runOk('ip', ['netns', 'add', name])
    await runOk('ip', ['link', 'add', outside, 'type', 'veth', 'peer', 'name', inside, 'netns', name])
    await runOk('ip', ['addr', 'add', `${prefix}.1/24`, 'dev', outside])
    await runOk('ip', ['link', 'set', outside, 'up'])
    await space.ip('link', 'set', 'lo', 'up')
    await space.ip('addr', 'add', `${prefix}.2/24`, 'dev', inside)
    await space.ip('link', 'set', inside, 'up')
    await space.ip('route', 'add', 'default', 'via', `${prefix}.1`)
    await space.#watch(inside)
    // On the loopback device: not every kernel has dummies.
    for (const address of options.addresses ?? []) await space.ip('addr', 'add', address, 'dev', 'lo')
    await space.sh('echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding')
    await space.#serve(options.url)
    return space
  }

  /** Joins it to another space by a wire of their own; gives the addresses of this and of the other end. */
  async join(other: Space): Promise<{ readonly here: string; readonly there: string }> {
    made += 1
    const [a, b, prefix] = [`w${made}a`, `w${made}b`, `10.${128 + (process.pid % 100)}.${made % 256}`]
    await runOk('ip', ['-n', this.name, 'link', 'add', a, 'type', 'veth', 'peer', 'name', b, 'netns', other.name])
    for (const [space, device, address] of [[this, a, `${prefix}.1`], [other, b, `${prefix}.2`]] as const) {
      await space.ip('addr', 'add', `${address}/24`, 'dev', device)
      await space.ip('link', 'set', device, 'up')
    }
    await this.#watch(a)
    return { here: `${prefix}.1`, there: `${prefix}.2` }
  }

  /** `ip` in the space. */
  ip(...words: readonly string[]): Promise<string> {
    return runOk('ip', ['-n', this.name, ...words])
  }

  /** A line for the shell in the space. */
  sh(line: string): Promise<string> {
    return runOk('ip', ['netns', 'exec', this.name, 'sh', '-c', line])
  }

  async #watch(device: string): Promise<void> {
    const watch = await OuterWatch.start(device, { namespace: this.name })
    if (watch !== undefined) this.#lab.onStop(() => watch.stop())
  }

  async #serve(url: string | undefined): Promise<void> {
    const script = this.#lab.at('space.mjs')
    if (!existsSync(script)) writeFileSync(script, HELPER)
    const forward: string[] = []
    if (url !== undefined) {
      const { port } = new URL(url)
      const file = this.#lab.at(`${this.name}.fwd`)
      forward.push(port, file)
      await forwardTo(this.#lab, file, Number(port))
    }
    const started = this.#lab.start(`space ${this.#label}`, 'ip', ['netns', 'exec', this.name, process.execPath, script, this.#label, String(SPACE_WEB_PORT), ...forward])
    await this.#lab.until(`space ${this.#label} serves its page`, () => started.log.includes('listening'))
  }

  // Programs in it end with the lab, after this; the namespace lives on until the last of them is gone.
  async #remove(): Promise<void> {
    const pids = (await runProgram('ip', ['netns', 'pids', this.name])).out.split('\n').filter((line) => /^[0-9]+$/.test(line))
    if (pids.length > 0) await runProgram('sh', ['-c', `kill -KILL ${pids.join(' ')}`])
    await runProgram('ip', ['netns', 'del', this.name])
  }
}

/** The first three numbers of a network that this computer has no address in: other runs beside this one have theirs. */
async function freePrefix(): Promise<string> {
  const taken = await runOk('ip', ['-o', '-4', 'addr'])
  for (;;) {
    // Counted up here and now: spaces are made side by side.
    made += 1
    const prefix = `10.${128 + (process.pid % 100)}.${made % 256}`
    if (!taken.includes(` ${prefix}.`)) return prefix
  }
}

async function forwardTo(lab: Lab, file: string, port: number): Promise<void> {
  const sockets = new Set<net.Socket>()
  const server = net.createServer((client) => {
    const target = net.connect(port, '127.0.0.1')
    for (const [a, b] of [[client, target], [target, client]] as const) {
      sockets.add(a)
      a.on('error', () => b.destroy())
      a.on('close', () => {
        sockets.delete(a)
        b.destroy()
      })
    }
    client.pipe(target)
    target.pipe(client)
  })
  await new Promise<void>((resolve) => server.listen(file, resolve))
  lab.onStop(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
    if (existsSync(file)) unlinkSync(file)
  })
}
