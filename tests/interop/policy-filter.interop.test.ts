import { spawnSync } from 'node:child_process'
import { expect } from 'vitest'
import { programFile } from './lab-flow.ts'
import { FilterJudge, filterLine, filterQuestions, headerIsCutOff } from './policy-filter.ts'
import { ownProgramFlow } from './policy-flow.ts'

// The real packet filter of tailscale.com/wgengine/filter, fed with rules that we compiled from random policies, and the same packets.
const PACKETS = Number(process.env['INTEROP_POLICY_PACKETS'] ?? 5_000)

ownProgramFlow('the packet filter and that of tailscale.com give the same verdicts', 'filter-peer', () => {
  const questions = filterQuestions(Number(process.env['INTEROP_SEED'] ?? 1), PACKETS)
  const answered = spawnSync(programFile('filter-peer'), { input: questions.map(filterLine).join(''), encoding: 'utf8', maxBuffer: 1 << 30 })
  expect(answered.stderr).toBe('')
  const lines = answered.stdout.trimEnd().split('\n')
  expect(lines.length).toBe(questions.length)
  const judge = new FilterJudge()
  let [packets, stricter] = [0, 0]
  const met = new Set<string>()
  for (const [i, question] of questions.entries()) {
    const theirs = (JSON.parse(lines[i] ?? '') as { readonly verdicts: string }).verdicts
    const ours = judge.verdicts(question)
    expect(theirs.length).toBe(ours.length)
    for (const [k, { out, bytes }] of question.packets.entries()) {
      packets += 1
      met.add(`${out ? 'out' : 'in'} ${ours[k] ?? ''}`)
      if (ours[k] === theirs[k]) continue
      // The one thing that we do otherwise: they read transport headers beyond the length that the packet itself declares.
      if (ours[k] === 'D' && headerIsCutOff(bytes)) stricter += 1
      else throw new Error(`${out ? 'out' : 'in'} ${Buffer.from(bytes).toString('hex')}: ours ${ours[k] ?? ''}, theirs ${theirs[k] ?? ''}, by ${filterLine({ ...question, packets: [] })}`)
    }
  }
  expect(packets).toBeGreaterThanOrEqual(PACKETS)
  expect(met.size).toBe(4)
  expect(stricter / packets).toBeLessThan(0.01)
})
