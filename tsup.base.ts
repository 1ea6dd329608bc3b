import { defineConfig, type Options } from 'tsup'

type Config = ReturnType<typeof defineConfig>

/** The one build every package shares: ESM and declarations into `dist`, neighbours left as imports. */
export function packageConfig(entry: Record<string, string>, more: Options = {}): Config {
  return defineConfig({
    entry,
    format: ['esm'],
    target: 'node20',
    platform: 'neutral',
    dts: true,
    clean: true,
    splitting: true,
    treeshake: true,
    sourcemap: false,
    tsconfig: 'tsconfig.json',
    ...more,
  })
}
