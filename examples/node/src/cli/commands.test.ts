import { expect, test } from 'vitest'
import { DaemonClient } from './client.ts'
import { COMMANDS } from './commands.ts'

/** What a command says to these words before it asks the daemon, which is not there. */
async function refusal(name: string, args: readonly string[], values: Readonly<Record<string, boolean>> = {}): Promise<string> {
  const run = COMMANDS[name]?.run(new DaemonClient('/nowhere/at/all.sock'), { args, values }, { out: () => undefined, err: () => undefined })
  return String(await run?.then(() => 'done', (error: unknown) => error))
}

test('what cannot be together is refused by name', async () => {
  expect(await refusal('ip', [], { '4': true, '6': true })).toContain('-1, -4 and -6 cannot be used together')
  expect(await refusal('ip', [], { '4': true })).toContain('failed to connect')
})

test('a flag behind the name of a peer is told where it stands', async () => {
  expect(await refusal('path', ['db', '--json'])).toContain('flags stand before the name: meshwright path [--json] HOST-OR-IP')
  expect(await refusal('path', ['db', 'web'])).toContain('usage: path HOST-OR-IP')
})
