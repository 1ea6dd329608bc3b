import { randomInt } from 'node:crypto'
import dgram from 'node:dgram'
import { DNS_CLASS_IN, DNS_TYPE_A, DNS_TYPE_AAAA, DNS_TYPE_ANY, DNS_TYPE_CNAME, DNS_TYPE_HINFO, DNS_TYPE_NS, DNS_TYPE_PTR, DNS_TYPE_SOA, DNS_TYPE_SRV, DNS_TYPE_TXT, encodeDns } from '@meshwright/magicdns'
import type { RunningNode } from '@meshwright/runtime-node'
import type { JsonObject } from './netmap-json.ts'

const SERVICE = '100.100.100.100'
const DNS_PORT = 53
const WAIT_MS = 10_000
const DNS_TYPE_MX = 15
const TYPES: Readonly<Record<string, number>> = { A: DNS_TYPE_A, AAAA: DNS_TYPE_AAAA, ALL: DNS_TYPE_ANY, CNAME: DNS_TYPE_CNAME, HINFO: DNS_TYPE_HINFO, MX: DNS_TYPE_MX, NS: DNS_TYPE_NS, PTR: DNS_TYPE_PTR, SOA: DNS_TYPE_SOA, SRV: DNS_TYPE_SRV, TXT: DNS_TYPE_TXT }

/** A record type that DNS does not know by this name. */
export class RecordTypeError extends Error {}

/** Asks the DNS service of the mesh, as a program behind a TUN device would; the answer as it came. */
export async function askNames(node: RunningNode, name: string, typeName: string): Promise<JsonObject> {
  const type = TYPES[typeName.trim().toUpperCase()]
  if (type === undefined) throw new RecordTypeError(`unknown DNS message type: ${typeName}`)
  const question = { name: name.replace(/\.$/, ''), type, class: DNS_CLASS_IN }
  const query = encodeDns({ id: randomInt(65_536), response: false, opcode: 0, recursionDesired: true, rcode: 0, questions: [question], answers: [], authorities: [], additionals: [] })
  const answer = await (node.tunName === undefined ? askByStack(node, query) : askByKernel(query))
  const resolvers = node.networkMap()?.dns.Resolvers ?? []
  return { Bytes: Buffer.from(answer).toString('base64'), Resolvers: resolvers.length === 0 ? null : resolvers }
}

function askByStack(node: RunningNode, query: Uint8Array): Promise<Uint8Array> {
  return waiting((settle) => {
    const socket = node.listenUdp(0, (bytes, from) => {
      if (from.address === SERVICE && from.port === DNS_PORT) settle(bytes)
    })
    socket.send(query, DNS_PORT, SERVICE)
    return () => socket.close()
  })
}

function askByKernel(query: Uint8Array): Promise<Uint8Array> {
  return waiting((settle) => {
    const socket = dgram.createSocket('udp4')
    socket.on('message', settle)
    socket.on('error', (error) => settle(error))
    socket.connect(DNS_PORT, SERVICE, (error?: Error | null) => {
      if (error) settle(error) // no way there: the node is down, and so is the network
      else socket.send(query)
    })
    return () => socket.close()
  })
}

function waiting(begin: (settle: (bytes: Uint8Array | Error) => void) => () => void): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    let isOver = false
    let stop: () => void = () => undefined
    const timer = setTimeout(() => settle(new Error('the DNS service of the mesh did not answer')), WAIT_MS)
    const settle = (result: Uint8Array | Error): void => {
      if (isOver) return
      isOver = true
      clearTimeout(timer)
      queueMicrotask(() => stop())
      if (result instanceof Error) reject(result)
      else resolve(result)
    }
    stop = begin(settle)
  })
}
