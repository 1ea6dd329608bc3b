import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkRatio, leftOutStatus } from '../../benchmarks/dataplane/check-rule.ts'
import { figure, isMet, withoutRounds } from '../../benchmarks/dataplane/goals.ts'

// What CI's short form of the benchmark decides, and what the long one prints; what they measure is in benchmarks/dataplane.
const ROOT = path.resolve(import.meta.dirname, '../..')

describe('the short form, recorded at 0.6', () => {
  const run = async (...ratios: readonly number[]): Promise<{ readonly status: number; readonly measured: number; readonly lines: readonly string[] }> => {
    const lines: string[] = []
    let measured = 0
    const status = await checkRatio(0.6, () => Promise.resolve({ own: ratios[(measured += 1) - 1] ?? expect.fail('measured once too often'), theirs: 1 }), (line) => lines.push(line))
    return { status, measured, lines }
  }

  test.each([0.3, 0.6, 0.79])('%d is fine, at once', async (ratio) => expect(await run(ratio)).toMatchObject({ status: 0, measured: 1, lines: [expect.stringMatching(/fine$/)] }))
  test('fallen once or twice: it is measured again, and fine', async () => {
    expect(await run(0.81, 0.79)).toMatchObject({ status: 0, measured: 2, lines: [expect.stringMatching(/measured again$/), expect.stringMatching(/fine$/)] })
    expect(await run(0.9, 0.9, 0.7)).toMatchObject({ status: 0, measured: 3 })
  })
  test('fallen three times: it fails', async () => {
    expect(await run(0.81, 0.81, 0.81)).toMatchObject({ status: 1, measured: 3, lines: [/measured again$/, /measured again$/, /FALLEN$/].map((end) => expect.stringMatching(end)) })
  })
  test.each([Number.NaN, Number.POSITIVE_INFINITY, 0])('nothing carried, %d: fallen', async (ratio) => expect(await run(ratio, ratio, ratio)).toMatchObject({ status: 1, measured: 3 }))
  test('where nothing can be measured it says why, and fails for who insists', () => {
    const lines: string[] = []
    expect([leftOutStatus('no root', false, (line) => lines.push(line)), leftOutStatus('no root', true, (line) => lines.push(line))]).toEqual([0, 1])
    expect(lines).toEqual(['left out: no root', 'left out: no root'])
  })
})

test('a figure has the median of its rounds, their range and number, and what it is set against', () => {
  expect(figure('cpu-tun', 'CPU s per Gbit', 'wireguard-go', 'ratio', [0.9, 0.5, 0.7])).toEqual({ name: 'cpu-tun', ratio: 0.7, unit: 'CPU s per Gbit', min: 0.5, max: 0.9, rounds: 3, baseline: 'wireguard-go', must: 0.75, aim: 0.55 })
  expect(figure('other', 'KiB', 'none', 'value', [1, 2])).toEqual({ name: 'other', value: 1.5, unit: 'KiB', min: 1, max: 2, rounds: 2, baseline: 'none' })
  expect([['cpu-tun', 0.75], ['cpu-tun', 0.76], ['tcp-tun', 1.25], ['tcp-tun', 1.24], ['other', 99]].map(([name, value]) => isMet(figure(String(name), '', '', 'ratio', [Number(value)])))).toEqual([true, false, true, false, true])
})

test('a figure that was wanted and of which no round gave a number is left out by its name', () => {
  const got = [figure('ping', 'ms', 'wireguard-go', 'ratio', [1])]
  expect(withoutRounds(['ping', 'rss', 'tcp-mesh'], got, ['tcp-mesh, cpu-mesh: tailscaled is not there'])).toEqual(['rss: no round gave a number'])
})

// `getuid` is hidden from it where this runs as root: the files are not everybody's to read.
test('without root it prints the machine, no figure, and what it left out', () => {
  const args = ['--conditions=@meshwright/source', '--import', 'tsx', '--import', `data:text/javascript,${encodeURIComponent('process.getuid = () => 1000')}`, 'benchmarks/dataplane/run.ts', '--figure', 'tcp-tun', '--json']
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' })
  expect([status, stderr]).toEqual([0, ''])
  const printed: unknown = JSON.parse(stdout)
  expect(printed).toEqual({ machine: expect.stringContaining('Node') as string, figures: [], leftOut: [expect.stringMatching(process.platform === 'linux' ? /need root/ : /need Linux/)] })
})
