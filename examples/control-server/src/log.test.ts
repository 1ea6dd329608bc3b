import { expect, test } from 'vitest'
import { makeLog } from './log.ts'

test.each(['text', 'json'])('what strangers send cannot forge a line or a colour, and is cut (%s)', (format) => {
  const lines: string[] = []
  const log = makeLog('info', format, (line) => lines.push(line))
  log.info('tags [x]\n2026-01-01T00:00:00Z INFO  joined\u001b[2J', { target: 'a\r\nb\u2028c\u202e', long: 'x'.repeat(100_000) })
  expect(lines).toHaveLength(1)
  expect(lines[0]?.length).toBeLessThan(1_000)
  expect(lines[0]?.slice(0, -1)).not.toMatch(/[\n\r\u001b]/)
  if (format === 'text') expect(lines[0]).not.toMatch(/[\u2028\u202e]/)
})

test('of one kind no more lines are written than a disk can bear; others are not touched by it', () => {
  const lines: string[] = []
  const log = makeLog('info', 'text', (line) => lines.push(line))
  for (let i = 0; i < 5_000; i += 1) log.info(`refused ${i}`, { audit: 'login.refused' })
  expect(lines.length).toBeLessThan(300)
  log.info('joined', { audit: 'node.register' })
  expect(lines.at(-1)).toContain('joined')
})
