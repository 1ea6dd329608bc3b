import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import type { World } from './lab-world.ts'

const DATABASE = 'control.sqlite'

/** A small disk of its own that the data of a control server stands on. */
export class SmallDisk {
  readonly #world: World
  readonly #folder: string

  private constructor(world: World, folder: string) {
    this.#world = world
    this.#folder = folder
  }

  /** Starts the control server again, with its data on a new disk of 16 MB. Needs root. */
  static async under(world: World): Promise<SmallDisk> {
    const disk = new SmallDisk(world, world.lab.at('small'))
    mkdirSync(disk.#folder, { recursive: true })
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'none', disk.#folder])
    world.lab.onStop(() => void execFileSync('umount', ['-l', disk.#folder]))
    await world.control.stop()
    disk.#move(world.lab.at(), disk.#folder)
    symlinkSync(`${disk.#folder}/${DATABASE}`, world.lab.at(DATABASE))
    await world.control.start()
    return disk
  }

  /** Leaves no room at all. */
  fill(): void {
    writeFileSync(this.#filler, Buffer.alloc(100_000))
    for (;;) {
      try {
        writeFileSync(this.#filler, Buffer.alloc(4096), { flag: 'a' })
      } catch {
        return // as wanted: it is full
      }
    }
  }

  clear(): void {
    rmSync(this.#filler)
  }

  /** Starts the control server again, with its data back where it was. */
  async leave(): Promise<void> {
    await this.#world.control.stop()
    rmSync(this.#world.lab.at(DATABASE))
    this.#move(this.#folder, this.#world.lab.at())
    await this.#world.control.start()
  }

  get #filler(): string {
    return `${this.#folder}/filler`
  }

  #move(from: string, to: string): void {
    for (const name of readdirSync(from).filter((file) => file.startsWith(DATABASE))) {
      cpSync(`${from}/${name}`, `${to}/${name}`)
      rmSync(`${from}/${name}`)
    }
  }
}

/** Creates users until there is no room for one; gives what the server says then. @param tries how often at most */
export async function refusals(world: World, tries: number): Promise<readonly string[]> {
  const refused: string[] = []
  for (let i = 0; i < tries; i += 1) await world.control.ask({ command: 'createUser', name: `too-much-${i}` }).catch((error: Error) => refused.push(error.message))
  return refused
}
