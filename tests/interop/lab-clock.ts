import { renameSync, writeFileSync } from 'node:fs'
import { pause } from './lab-process.ts'
import type { World } from './lab-world.ts'

let clockShim: Promise<void> | undefined

/** Lets the control servers of a suite have their wall clock set by a file beside their configuration, from their next start on. */
export async function installClock(world: World): Promise<void> {
  const { control } = world.base.programs
  clockShim ??= (async () => {
    const real = control.replace(/\.mjs$/, '-real.mjs')
    renameSync(control, real)
    writeFileSync(
      control,
      `import { readFileSync } from 'node:fs'
import path from 'node:path'
const at = process.argv.findIndex((word) => word === '--config' || word === '-c')
const file = path.join(path.dirname(process.argv[at + 1]), 'clock-offset')
const now = Date.now.bind(Date)
let offset = 0
const look = () => { try { offset = Number(readFileSync(file, 'utf8')) } catch { offset = 0 } }
look()
setInterval(look, 20).unref()
Date.now = () => now() + offset
await import(${JSON.stringify(real)})
`,
    )
  })()
  await clockShim
}

/** Sets the wall clock of a control server so far ahead, or back. */
export async function setClock(world: World, offsetMs: number): Promise<void> {
  writeFileSync(world.lab.at('clock-offset'), String(offsetMs))
  await pause(200)
}
