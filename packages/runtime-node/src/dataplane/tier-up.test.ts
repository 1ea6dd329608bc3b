import { expect, test } from 'vitest'
import { optimizeSooner } from './tier-up.ts'

test('functions are optimized sooner in the process of a lane', () => {
  expect(optimizeSooner({ execArgv: [], environment: undefined })).toBe(true)
})

test.each([
  [{ execArgv: ['--interrupt-budget=70000'], environment: undefined }],
  [{ execArgv: [], environment: '--no-warnings --interrupt_budget=70000' }],
  [{ execArgv: ['--max-inlined-bytecode-size-cumulative=920'], environment: undefined }],
])('what a user has chosen stays: %j', (options) => {
  expect(optimizeSooner(options)).toBe(false)
})
