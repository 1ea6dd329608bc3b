import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'

const require = createRequire(import.meta.url)

/** The built programs that the demo runs, as files for Node. */
export interface BuiltPrograms {
  readonly control: string
  readonly relay: string
  readonly daemon: string
  readonly cli: string
}

/** Finds the built programs of the neighbour packages. @throws Error when one has not been built */
export function builtPrograms(): BuiltPrograms {
  return {
    control: program('@meshwright/example-control-server', 'meshwright-control'),
    relay: program('@meshwright/example-relay', 'meshwright-relay'),
    daemon: program('@meshwright/example-node', 'meshwrightd'),
    cli: program('@meshwright/example-node', 'meshwright'),
  }
}

function program(packageName: string, name: string): string {
  const manifest = require.resolve(`${packageName}/package.json`)
  const { bin } = JSON.parse(readFileSync(manifest, 'utf8')) as { readonly bin?: Readonly<Record<string, string>> }
  const file = path.resolve(path.dirname(manifest), bin?.[name] ?? '')
  if (bin?.[name] === undefined || !existsSync(file)) throw new Error(`${name} is not built (${file} is missing): run "npm run build" first`)
  return file
}
