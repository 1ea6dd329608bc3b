import { build } from 'esbuild'

/**
 * Bundles programs of ours from source, each into one file `NAME.mjs` of a folder, as an installed one would start: in a tenth of a second. The folder
 * must lie inside the repository, because packages from the registry are left as imports.
 */
export async function bundle(entryPoints: Readonly<Record<string, string>>, folder: string): Promise<void> {
  await build({
    entryPoints,
    outdir: folder,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['@meshwright/source'],
    external: ['libsql', 'yaml', 'koffi', 'ws', 'jsonc-parser', '@noble/*'],
    logLevel: 'error',
  })
}
