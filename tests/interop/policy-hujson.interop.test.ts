import { spawnSync } from 'node:child_process'
import { expect } from 'vitest'
import { programFile } from './lab-flow.ts'
import { ownProgramFlow } from './policy-flow.ts'
import { hujsonDifference, hujsonQuestions, questionLine } from './policy-hujson.ts'

// The Go module github.com/tailscale/hujson on generated and mutated texts: error texts, packing, layout, patches.
const INPUTS = Number(process.env['INTEROP_POLICY_INPUTS'] ?? 5_000)
const SLICE = 5_000

ownProgramFlow('HuJSON texts mean what github.com/tailscale/hujson makes of them', 'hujson-peer', () => {
  let [accepted, patched] = [0, 0]
  for (let done = 0; done < INPUTS; done += SLICE) {
    const questions = hujsonQuestions(Number(process.env['INTEROP_SEED'] ?? 1) + done, Math.min(SLICE, INPUTS - done))
    const answered = spawnSync(programFile('hujson-peer'), { input: questions.map(questionLine).join(''), encoding: 'utf8', maxBuffer: 1 << 30 })
    expect(answered.stderr).toBe('')
    const lines = answered.stdout.trimEnd().split('\n')
    expect(lines.length).toBe(questions.length)
    for (const [i, question] of questions.entries()) {
      const line = lines[i] ?? ''
      expect(hujsonDifference(question, line)).toBeUndefined()
      if (!line.startsWith('{"error"')) accepted += 1
      if (line.includes('"patched":')) patched += 1
    }
  }
  // Neither side of the comparison may be idle.
  expect(accepted).toBeGreaterThan(INPUTS / 4)
  expect(INPUTS - accepted).toBeGreaterThan(INPUTS / 10)
  expect(patched).toBeGreaterThan(INPUTS / 50)
})
