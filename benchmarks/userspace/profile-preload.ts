import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector'
import path from 'node:path'

// Loaded into our daemons by `--profile FOLDER`: `--cpu-prof` is no option that NODE_OPTIONS takes.
const folder = process.env['MESHWRIGHT_BENCH_PROFILE']
if (folder !== undefined) {
  const session = new Session()
  session.connect()
  session.post('Profiler.enable')
  session.post('Profiler.setSamplingInterval', { interval: 500 })
  session.post('Profiler.start')
  process.on('exit', () => {
    // Answered before `post` returns.
    session.post('Profiler.stop', (error, { profile }) => {
      if (error === null) writeFileSync(path.join(folder, `${process.pid}.cpuprofile`), JSON.stringify(profile))
    })
  })
}
