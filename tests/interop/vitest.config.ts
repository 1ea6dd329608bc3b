import { defineConfig } from 'vitest/config'

// As the root configuration, for tests that need other programs and are therefore not part of `npm test`.
const conditions: string[] = ['@meshwright/source', 'import', 'module', 'default']

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ['tests/interop/**/*.interop.test.ts'],
    expect: { poll: { timeout: 30_000 } },
    testTimeout: 180_000,
    maxConcurrency: 4,
    hookTimeout: 120_000,
    pool: 'forks',
    // Most of the time flows wait. More at once would make the timed ones late.
    maxWorkers: 2,
  },
})
