import { rmSync } from 'node:fs'
import path from 'node:path'
import { build } from 'esbuild'
import type { Lab } from './lab-process.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')

/** Programs of `examples/embed-http`, by the names of their sources. */
export type EmbeddedExample = 'main' | 'ci-job' | 'chat' | 'socks-gateway' | 'tcp-forwarder'

/** Bundles programs of `examples/embed-http` from source, each into one file. */
export async function bundleExamples<Name extends EmbeddedExample>(lab: Lab, names: readonly Name[]): Promise<Readonly<Record<Name, string>>> {
  const folder = path.join(ROOT, '.cache', 'interop', `${path.basename(lab.folder)}-examples`)
  lab.onStop(() => rmSync(folder, { recursive: true, force: true }))
  await build({
    entryPoints: names.map((name) => path.join(ROOT, 'examples/embed-http/src', `${name}.ts`)),
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['@meshwright/source'],
    external: ['koffi', 'ws', '@noble/*'],
    logLevel: 'error',
  })
  return Object.fromEntries(names.map((name) => [name, path.join(folder, `${name}.mjs`)])) as Record<Name, string> // one entry for each name
}
