import { expect, test } from 'vitest'
import { NODE_FLAGS, startAdvice } from './node-flags.ts'

test('who starts the server on few processors without the flags is told of them, and nobody else', () => {
  expect(startAdvice([], 2)).toContain('node --single-threaded-gc --max-semi-space-size=4 main.js serve')
  expect(startAdvice(['--enable-source-maps'], 1)).toContain('--single-threaded-gc')
  expect(startAdvice(NODE_FLAGS, 1)).toBeUndefined()
  expect(startAdvice([], 4)).toBeUndefined()
})
