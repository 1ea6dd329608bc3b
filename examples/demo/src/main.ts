import os from 'node:os'
import { parseArgs } from 'node:util'
import { builtPrograms } from './built-programs.ts'
import { DOMAIN, type DemoMesh, prepareMesh } from './demo-mesh.ts'
import { Lab } from './lab.ts'
import { proof } from './proof.ts'
import { NOT_TRIED, Printer, runSteps } from './report.ts'

/** A step takes a second or two, on a cold and busy computer ten times as long. */
const STEP_LIMIT_MS = 120_000
const TAIL_LINES = 8

const USAGE = `usage: npm start -- [options]

Runs a whole mesh on this computer, a process each: control server, relay, and four nodes of two users and two tags
under the policy of examples/demo/policy.hujson. Proves step by step that it works, then stays up. Needs no root and
no internet; leaves nothing behind.

  --once    end after the proof, with status 0 when all of it holds and 1 otherwise
  --json    with --once: print {ok, steps: [{name, ok, ms, detail}]} alone on standard output
  --help    this text
`

async function main(words: readonly string[]): Promise<number> {
  const options = readOptions(words)
  if (typeof options === 'string') {
    process.stderr.write(`${options}\n\n${USAGE}`)
    return 2
  }
  if (options.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const printer = new Printer(options.json ? process.stderr : process.stdout)
  const lab = new Lab(builtPrograms())
  const interrupted = onSignal()
  try {
    const mesh = await prepareMesh(lab)
    printer.title(`Meshwright demo: a mesh of six processes on this computer (Node ${process.versions.node}, ${os.availableParallelism()} cores)`)
    const begun = performance.now()
    const complaint = (): string | undefined => lab.complaint()
    const ended = await Promise.race([runSteps(proof(mesh, complaint), STEP_LIMIT_MS, complaint, (result) => {
      if (!interrupted.signal.aborted && result.detail !== NOT_TRIED) printer.step(result)
    }), interrupted.status])
    if (typeof ended === 'number') return ended
    const ok = ended.every((step) => step.ok)
    const untried = ended.filter((step) => step.detail === NOT_TRIED).length
    if (untried > 0) printer.line(`    ${untried} more steps were not tried.`)
    printer.line(`\n${ok ? `All ${ended.length} steps hold` : 'The proof FAILED'} (${((performance.now() - begun) / 1000).toFixed(1)} s).`)
    if (!ok) for (const { name, lines } of lab.tails(TAIL_LINES)) process.stderr.write(`\nlast lines of ${name}:\n${lines.map((line) => `  ${line}\n`).join('')}`)
    if (options.json) process.stdout.write(`${JSON.stringify({ ok, steps: ended })}\n`)
    if (options.once || !ok) return ok ? 0 : 1
    printer.line(invitation(mesh, lab))
    await interrupted.status
    return 0
  } finally {
    await lab.close()
  }
}

function readOptions(words: readonly string[]): { readonly once: boolean; readonly json: boolean; readonly help: boolean } | string {
  try {
    const { values } = parseArgs({ args: [...words], options: { once: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } })
    if (values.json === true && values.once !== true && values.help !== true) return '--json goes with --once'
    return { once: values.once === true, json: values.json === true, help: values.help === true }
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

// The first SIGINT, SIGTERM or SIGHUP ends the demo in good order; `npm start` may hand the same one on again.
function onSignal(): { readonly signal: AbortSignal; readonly status: Promise<number> } {
  const controller = new AbortController()
  const status = new Promise<number>((resolve) => {
    // Nobody reads any more (`npm start | head -1`): it ends in good order too.
    process.stdout.on('error', () => {
      controller.abort()
      resolve(128 + 13)
    })
    for (const [name, number] of [['SIGHUP', 1], ['SIGINT', 2], ['SIGTERM', 15]] as const) {
      process.on(name, () => {
        controller.abort()
        resolve(128 + number)
      })
    }
  })
  return { signal: controller.signal, status }
}

// Commands to copy. Everything that is named here runs until Ctrl-C.
function invitation(mesh: DemoMesh, lab: Lab): string {
  const cli = (node: { readonly socketPath: string }, words: string): string => `  node ${lab.programs.cli} --socket ${node.socketPath} ${words}`
  const admin = (words: string): string => `  node ${lab.programs.control} -c ${mesh.control.configFile} ${words}`
  return [
    '\nThe mesh stays up. Try, in another terminal:\n',
    cli(mesh.alice, 'status'),
    cli(mesh.alice, 'ping app'),
    cli(mesh.bob, 'path app'),
    cli(mesh.app, 'whois 100.64.0.1'),
    `  curl --proxy socks5h://127.0.0.1:${mesh.alice.socksPort} http://app.${DOMAIN}:${mesh.application.port}/`,
    admin('nodes list'),
    admin('policy get'),
    '\nCtrl-C ends all of it and removes every file.',
  ].join('\n')
}

main(process.argv.slice(2)).then(
  (status) => process.exit(status),
  (error: unknown) => {
    process.stderr.write(`demo: ${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(1)
  },
)
