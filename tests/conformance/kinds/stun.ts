import { formatHex, parseHex } from '@meshwright/core'
import { type Endpoint, formatEndpoint, parseEndpoint } from '@meshwright/ip'
import { answerBinding, classifyDatagram, decodeBindingAnswer, decodeStunMessage, encodeBindingRequest } from '@meshwright/nat-traversal'
import { readFile, readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'

/** A request of ours to a real server, and its answer or null. */
interface ServerCase {
  readonly server: string
  readonly case: string
  readonly txid: string
  readonly request: string
  readonly response: string | null
  readonly clientPort?: number
}

/** A request of a real client, and the answer that it accepted. */
interface ClientCase {
  readonly answerVariant: string
  readonly from: string
  readonly request: string
  readonly response: string
}

/** STUN exchanges with real servers and real clients. */
export const kind: Kind = {
  name: 'stun',
  defaultPath: 'vectors/stun',
  copied: true,
  async run(target) {
    const files = (await stat(target)).isDirectory() ? (await readdir(target)).filter((name) => name.endsWith('.json')).map((name) => path.join(target, name)) : [target]
    const results: CaseResult[] = []
    for (const file of files) {
      const content: unknown = JSON.parse(await readFile(file, 'utf8'))
      if (!Array.isArray(content)) continue
      content.forEach((item: unknown, i) => {
        if (isServerCase(item)) results.push(judge('real-servers', `${item.server}/${item.case}`, () => judgeServerCase(item)))
        else if (isClientCase(item)) results.push(judge('real-clients', `${item.answerVariant}/${item.from}#${i}`, () => judgeClientCase(item)))
      })
    }
    if (results.length === 0) throw new UnknownForm(target, 'arrays of STUN exchanges: {server, case, txid, request, response} or {answerVariant, from, request, response}')
    return results
  },
}

/** Our server must answer exactly what a real one answers, our client must read every answer, and our request must be the accepted one. */
function judgeServerCase(item: ServerCase): string | undefined {
  const request = hex(item.request)
  const txid = hex(item.txid)
  const answer = item.response === null ? undefined : decodeBindingAnswer(hex(item.response))
  const from: Endpoint = answer?.type === 'mapped' ? answer.endpoint : nowhere()
  const ours = answerBinding(request, from)
  if (item.case === 'tailscale client form' && formatHex(encodeBindingRequest(txid)) !== item.request) return 'our request differs from the real one'
  if (item.response === null) return ours === undefined ? undefined : 'the real server is silent, ours answered'
  if (answer?.type !== 'mapped') return 'the answer was not read'
  if (formatHex(answer.transactionId) !== item.txid) return 'transaction id'
  if (from.port !== item.clientPort) return `port ${from.port}, not ${item.clientPort}`
  if (ours === undefined) return 'the real server answers, ours is silent'
  // A dual-stack socket of the real server tells IPv4 clients a v4-mapped address; ours always tells their own family.
  const mappedForm = from.ip.family === 4 && hex(item.response).length === 44
  return mappedForm ? sameEndpoint(ours, from) : differs(formatHex(ours), item.response)
}

/** Our request must equal the real client's, our server must give it its address, and our client must accept what it accepted. */
function judgeClientCase(item: ClientCase): string | undefined {
  const from = parseEndpoint(bracketed(item.from))
  const request = hex(item.request)
  const message = decodeStunMessage(request)
  if (from === undefined || message === undefined) return 'not understood'
  if (classifyDatagram(request) !== 'stun' || classifyDatagram(hex(item.response)) !== 'stun') return 'not classified as stun'
  if (formatHex(encodeBindingRequest(message.transactionId)) !== item.request) return 'our request differs from the real one'
  const ours = answerBinding(request, from)
  if (ours === undefined) return 'our server is silent'
  return (item.answerVariant === 'xor' ? differs(formatHex(ours), item.response) : sameEndpoint(ours, from)) ?? sameEndpoint(hex(item.response), from)
}

function sameEndpoint(response: Uint8Array, expected: Endpoint): string | undefined {
  const answer = decodeBindingAnswer(response)
  if (answer?.type !== 'mapped') return 'the answer was not read'
  return differs(formatEndpoint(answer.endpoint), formatEndpoint(expected))
}

function differs(actual: string, expected: string): string | undefined {
  return actual === expected ? undefined : `${actual}, not ${expected}`
}

function judge(group: string, id: string, check: () => string | undefined): CaseResult {
  const detail = check()
  return detail === undefined ? { group, id, passed: true } : { group, id, passed: false, detail }
}

function nowhere(): Endpoint {
  const endpoint = parseEndpoint('192.0.2.1:1')
  if (endpoint === undefined) throw new Error('the documentation address did not parse')
  return endpoint
}

/** The recording writes IPv6 endpoints without brackets. */
function bracketed(text: string): string {
  const colon = text.lastIndexOf(':')
  return text.indexOf(':') === colon || text.startsWith('[') ? text : `[${text.slice(0, colon)}]${text.slice(colon)}`
}

function hex(text: string): Uint8Array {
  const bytes = parseHex(text)
  if (bytes === undefined) throw new Error(`not hexadecimal: ${text.slice(0, 20)}`)
  return bytes
}

function isServerCase(item: unknown): item is ServerCase {
  return isObject(item) && typeof item.server === 'string' && typeof item.case === 'string' && typeof item.request === 'string' && 'response' in item
}

function isClientCase(item: unknown): item is ClientCase {
  return isObject(item) && typeof item.answerVariant === 'string' && typeof item.from === 'string' && typeof item.request === 'string'
}

function isObject(item: unknown): item is Record<string, unknown> {
  return typeof item === 'object' && item !== null
}
