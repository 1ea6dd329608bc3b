import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { promisify } from 'node:util'
import { startTailnet } from '../../benchmarks/tailnet.ts'
import { OurNode } from './lab-ours.ts'
import { Lab } from './lab-process.ts'
import { Space } from './lab-space.ts'

const COMMAND_MS = 300_000
const READY_MS = 60_000
const ALLOW_ALL = [{ action: 'accept', src: ['*'], dst: ['*:*'] }]

/** Two network namespaces between which something is sent. */
export interface Ends {
  readonly a: string
  /** Runs a program in A; gives its output. */
  inA(file: string, ...args: readonly string[]): Promise<string>
  /** Starts a program in B that runs until it is stopped. */
  background(file: string, ...args: readonly string[]): ChildProcess
  stop(...children: readonly ChildProcess[]): Promise<void>
}

/** Two meshwrightd with TUN devices, each in a network namespace of its own, joined by a wire; control server and relay are ours too. */
export class MeshPair {
  readonly addresses: readonly [string, string]
  readonly ends: Ends
  readonly #lab: Lab
  readonly #nodes: readonly OurNode[]

  private constructor(lab: Lab, nodes: readonly OurNode[], addresses: readonly [string, string], ends: Ends) {
    this.#lab = lab
    this.#nodes = nodes
    this.addresses = addresses
    this.ends = ends
  }

  /** Resolves when packets go directly. @param env of both nodes: which lane */
  static async start(env: Readonly<Record<string, string>>): Promise<MeshPair> {
    const lab = new Lab()
    try {
      const { programs, control, authKey } = await startTailnet(lab, ALLOW_ALL)
      const spaces = [await Space.make(lab, 'a', { url: control.url }), await Space.make(lab, 'b', { url: control.url })] as const
      await spaces[0].join(spaces[1])
      const nodes = [0, 1].map((i) => new OurNode(lab, programs, `node-${i}`, [], env, spaces[i === 0 ? 0 : 1].name))
      await Promise.all(nodes.map((node) => node.start()))
      await Promise.all(nodes.map((node) => node.up(control.url, authKey)))
      const [from, to] = nodes
      if (from === undefined || to === undefined) throw new Error('two nodes')
      const addresses = [await from.ip(), await to.ip()] as const
      await lab.until('they are connected', async () => (await from.inside('ping', ['-n', '-q', '-c', '1', '-W', '2', addresses[1]])).status === 0, READY_MS)
      await lab.until('they are so directly', async () => / via (?!DERP)[^ ]*:\d+ in/.test((await from.run(['ping', '--c', '10', '--timeout', '2s', addresses[1]])).out), READY_MS)
      return new MeshPair(lab, nodes, addresses, endsIn(spaces[0].name, spaces[1].name))
    } catch (error) {
      await lab.stop()
      throw error
    }
  }

  /** How their packets are carried, as `meshwright status --json` has it. */
  lanes(): Promise<readonly unknown[]> {
    return Promise.all(this.#nodes.map(async (node) => JSON.parse((await node.run(['status', '--json'])).out).Meshwright.DataPlane as unknown))
  }

  stop(): Promise<void> {
    return this.#lab.stop()
  }
}

function endsIn(a: string, b: string): Ends {
  const run = promisify(execFile)
  return {
    a,
    inA: async (file, ...args) => (await run('ip', ['netns', 'exec', a, file, ...args], { timeout: COMMAND_MS, maxBuffer: 64 << 20 })).stdout,
    background: (file, ...args) => spawn('ip', ['netns', 'exec', b, file, ...args], { stdio: ['ignore', 'pipe', 'ignore'] }),
    stop: async (...children) => {
      for (const child of children) {
        if (child.exitCode !== null || child.signalCode !== null) continue
        const ended = new Promise((resolve) => child.once('exit', resolve))
        child.kill('SIGKILL')
        await ended
      }
    },
  }
}
