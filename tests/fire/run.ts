import { parseArgs } from 'node:util'
import { fire, type FireReport, whyNoFire } from './fire.ts'
import type { FireLane } from './words.ts'

const USAGE = `usage: npm run fire -- [--minutes N] [--lane mesh|engine|both] [--mode offload] [--json]

Two ends with TUN devices in two network namespaces, at full load by TCP each way and datagrams that name themselves, while sessions are made
anew every 5 seconds, peers come and go, the policy is swapped every second and garbage is collected in both threads. Judged: no loss but
what queues have counted, no growth, no denied packet through. Needs Linux, root, iperf3 and tcpdump.

--minutes N   for each lane; default 10
--lane        the lane of the mesh node, that of meshwright-wg, or one after the other; default both
--mode        value of MESHWRIGHT_DATAPLANE for both ends; default offload
--json        the findings as JSON; progress is told on standard error
`

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { minutes: { type: 'string', default: '10' }, lane: { type: 'string', default: 'both' }, mode: { type: 'string', default: 'offload' }, json: { type: 'boolean' }, help: { type: 'boolean' } } })
  const minutes = Number(values.minutes)
  const lanes: readonly FireLane[] | undefined = values.lane === 'both' ? ['mesh', 'engine'] : values.lane === 'mesh' || values.lane === 'engine' ? [values.lane] : undefined
  if (values.help === true || lanes === undefined || !(minutes >= 0.2 && minutes <= 1_440)) {
    ;(values.help === true ? process.stdout : process.stderr).write(USAGE)
    return values.help === true ? 0 : 2
  }
  const why = whyNoFire()
  if (why !== undefined) {
    process.stderr.write(`fire: ${why}\n`)
    return 2
  }
  const reports: FireReport[] = []
  for (const lane of lanes) {
    const report = await fire({ lane, mode: values.mode, seconds: minutes * 60, onProgress: (line) => void process.stderr.write(`${lane}: ${line}\n`) })
    reports.push(report)
    if (values.json === true) continue
    process.stdout.write(`${lane}, ${values.mode}, ${minutes} minutes: ${report.ok ? 'held' : 'FAILED'}\n`)
    for (const { ok, promise, measured } of report.findings) process.stdout.write(`  ${ok ? 'ok    ' : 'FAILED'} ${promise}: ${measured}\n`)
  }
  if (values.json === true) process.stdout.write(`${JSON.stringify({ reports }, null, 2)}\n`)
  return reports.every(({ ok }) => ok) ? 0 : 1
}

process.stdout.on('error', () => undefined) // whoever read it may have seen enough (`| head`)
main().then(
  (status) => {
    process.exitCode = status
  },
  (error: unknown) => {
    process.stderr.write(`fire: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exitCode = 2
  },
)
