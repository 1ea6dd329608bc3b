import { defineConfig } from 'vitest/config'

// As the root configuration, for the programs under liars alone.
const conditions: string[] = ['@meshwright/source', 'import', 'module', 'default']

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: { include: ['tests/hostile/**/*.test.ts'], expect: { poll: { timeout: 30_000 } }, testTimeout: 120_000, hookTimeout: 120_000, pool: 'forks', maxWorkers: 2 },
})
