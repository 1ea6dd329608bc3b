import { readFile, rename, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { parsePolicy } from '@meshwright/policy'

const FILE = process.env['POLICY_FILE'] ?? 'policy.hujson'
const MOST_BYTES = 1_000_000

/** What a request is answered with: status, type, body. GET gives the policy that holds; PUT replaces it whole, or tells what is wrong. */
async function answer(request: IncomingMessage): Promise<readonly [number, string, string]> {
  if (request.url !== '/policy') return [404, 'text/plain', 'PUT or GET /policy\n']
  if (request.method === 'GET') return [200, 'application/hujson', await readFile(FILE, 'utf8').catch(() => '{}\n')]
  if (request.method !== 'PUT') return [405, 'text/plain', 'PUT or GET\n']
  const announced = Number(request.headers['content-length'] ?? Number.NaN)
  if (!(announced <= MOST_BYTES)) return [Number.isNaN(announced) ? 411 : 413, 'text/plain', `announce at most ${MOST_BYTES} bytes\n`]
  const policy = await text(request)
  const { diagnostics } = parsePolicy(policy)
  if (diagnostics.length > 0) return [422, 'application/json', JSON.stringify({ ok: false, diagnostics })]
  const staged = `${FILE}.${process.pid}.${performance.now()}.new`
  await writeFile(staged, policy)
  await rename(staged, FILE) // whoever reads sees the old policy or the new one, never half of one
  return [200, 'application/json', JSON.stringify({ ok: true, diagnostics })]
}

const server = createServer((request, response) => {
  const send = ([status, type, body]: readonly [number, string, string]): void => void response.writeHead(status, { 'content-type': type }).end(body)
  answer(request).then(send, () => send([500, 'text/plain', 'the policy could not be read or stored\n']))
})
server.listen(Number(process.env['PORT'] ?? 8787), '127.0.0.1', () => console.log(`policies at http://127.0.0.1:${process.env['PORT'] ?? 8787}/policy`))
