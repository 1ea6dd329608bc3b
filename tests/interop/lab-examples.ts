import path from 'node:path'
import { bundleInto } from './lab-ours.ts'
import type { Lab } from './lab-process.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')

/** Programs of `examples/embed-http`, by the names of their sources. */
export type EmbeddedExample = 'main' | 'ci-job' | 'chat' | 'socks-gateway' | 'tcp-forwarder'

/** Bundles programs of `examples/embed-http` from source, each into one file. */
export async function bundleExamples<Name extends EmbeddedExample>(lab: Lab, names: readonly Name[]): Promise<Readonly<Record<Name, string>>> {
  const folder = await bundleInto(lab, '-examples', Object.fromEntries(names.map((name) => [name, path.join(ROOT, 'examples/embed-http/src', `${name}.ts`)])))
  return Object.fromEntries(names.map((name) => [name, path.join(folder, `${name}.mjs`)])) as Record<Name, string> // one entry for each name
}
