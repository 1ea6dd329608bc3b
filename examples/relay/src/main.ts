import { isMeshwrightError } from '@meshwright/core'
import { startAdvice } from '@meshwright/runtime-node/relay'
import { NODE_FLAGS } from './node-flags.ts'
import { parseOptions, USAGE, UsageError } from './options.ts'
import { startRelay } from './relay.ts'
import { VERSION } from './version.ts'

async function main(argv: readonly string[]): Promise<void> {
  if (argv.length === 1 && argv[0] === '--version') {
    process.stdout.write(`${VERSION}\n`)
    return
  }
  const options = parseOptions(argv)
  if (options === undefined) {
    process.stdout.write(USAGE)
    return
  }
  const log = (line: string): void => void process.stdout.write(`${line}\n`)
  const relay = await startRelay(options, log)
  log(`relay listening on ${options.plainHttp ? 'http' : 'https'}, TCP port ${relay.port}; STUN port ${relay.node.STUNPort}`)
  log(`for the DERP map: ${JSON.stringify(relay.node)}`)
  const advice = startAdvice(NODE_FLAGS, 'main.js --key-file relay.json …', process.execArgv)
  if (advice !== undefined) log(advice)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void relay.close())
}

// Whoever read the lines may go; the relay stays.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)

main(process.argv.slice(2)).catch((error: unknown) => {
  const expected = error instanceof UsageError || isMeshwrightError(error)
  const text = error instanceof Error ? error.message : String(error)
  const remedy = isMeshwrightError(error) && error.remedy !== undefined ? ` ${error.remedy}` : ''
  process.stderr.write(`meshwright-relay: ${text}${remedy}\n${error instanceof UsageError && /^(Unknown option|Unexpected argument|--key-file is missing)/.test(text) ? "Try 'meshwright-relay --help'.\n" : ''}`)
  process.exitCode = expected ? 2 : 1
})
