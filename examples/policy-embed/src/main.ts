import { createServer } from 'node:http'
import { parsePolicy } from '@meshwright/policy'

const port = Number(process.env['PORT'] ?? 8787)
const server = createServer((request, response) => {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    const { diagnostics } = parsePolicy(Buffer.concat(chunks).toString('utf8'))
    response.writeHead(diagnostics.length === 0 ? 200 : 422, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ ok: diagnostics.length === 0, diagnostics }))
  })
})
server.listen(port, '127.0.0.1', () => console.log(`policy check on http://127.0.0.1:${port}/`))
