// `npm start`: installs, builds, and shows the main job working. Options after `--` go to the demo (`--once`, `--json`, `--help`).
import { spawn } from 'node:child_process'
import path from 'node:path'
import { build, install, requireNode, ROOT } from './setup.mjs'

requireNode()
install()
build()

const demo = spawn(process.execPath, [path.join(ROOT, 'examples', 'demo', 'dist', 'main.js'), ...process.argv.slice(2)], { stdio: 'inherit' })
// Ctrl-C reaches the demo as well, which stops its processes; this one waits for it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => demo.kill(signal))
demo.on('exit', (status, signal) => process.exit(status ?? (signal === 'SIGINT' ? 130 : 1)))
