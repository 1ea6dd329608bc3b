import { defineConfig } from 'vitest/config'

// Tests read the TypeScript sources of every package through the private export condition: nothing needs to be built.
const conditions: string[] = ['@meshwright/source', 'import', 'module', 'default']

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    include: ['packages/*/src/**/*.test.ts', 'examples/*/src/**/*.test.ts', 'tests/{house,conformance,simulation,fuzz}/**/*.test.ts'],
    // What is waited for may take as long on a busy computer; no test asserts that it is fast.
    expect: { poll: { timeout: 30_000 } },
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 2,
  },
})
