import { expect, test } from 'vitest'
import { Lab } from '../interop/lab-process.ts'

// Programs of the lab say more than is kept of it: what is counted must not depend on that.
test('what a program says is counted however much it says, and in however many pieces; of its output the end is kept', async () => {
  const lab = new Lab()
  try {
    const source = `
      process.stdout.write('a map poll begins\\na map po')
      setTimeout(() => {
        process.stdout.write('ll begins\\n' + 'x'.repeat(200_000) + '\\n', () => process.stdout.write('a map poll begins\\nend\\n'))
      }, 100)
    `
    const said = lab.start('speaker', process.execPath, ['-e', source])
    const polls = said.counted('a map poll begins')
    await lab.until('it has said all', () => said.log.includes('end\n'))
    expect(polls()).toBe(3)
    expect(said.log.match(/a map poll begins/g)).toHaveLength(1)
  } finally {
    await lab.stop()
  }
})
