import { expect, test } from 'vitest'
import { startAdvice } from './start-advice.ts'

const FLAGS = ['--single-threaded-gc', '--max-semi-space-size=4']
const COMMAND = 'main.js serve'

test('who starts the server on few processors without the flags is told of them, and nobody else', () => {
  expect(startAdvice(FLAGS, COMMAND, [], 2)).toContain('node --single-threaded-gc --max-semi-space-size=4 main.js serve')
  expect(startAdvice(FLAGS, COMMAND, ['--enable-source-maps'], 1)).toContain('--single-threaded-gc')
  expect(startAdvice(FLAGS, COMMAND, FLAGS, 1)).toBeUndefined()
  expect(startAdvice(FLAGS, COMMAND, [], 4)).toBeUndefined()
})
