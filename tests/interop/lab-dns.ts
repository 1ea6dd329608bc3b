import dgram from 'node:dgram'
import { parseIp } from '@meshwright/ip'
import { decodeDns, DNS_CLASS_IN, DNS_TYPE_A, type DnsRecord, encodeDns, RCODE_NAME_ERROR, RCODE_NO_ERROR } from '@meshwright/magicdns'
import { type Lab, runOk, runProgram } from './lab-process.ts'

let made = 0

/**
 * One more address of this computer, for a server at a port that everybody knows: programs in namespaces reach it too. Needs root; taken back with
 * the lab.
 */
export async function hostAddress(lab: Lab): Promise<string> {
  const taken = await runOk('ip', ['-o', '-4', 'addr'])
  for (;;) {
    made += 1
    // RFC 2544: nobody has these.
    const address = `198.18.${process.pid % 256}.${made % 256}`
    if (taken.includes(` ${address}/`)) continue
    await runOk('ip', ['addr', 'add', `${address}/32`, 'dev', 'lo'])
    lab.onStop(async () => void (await runProgram('ip', ['addr', 'del', `${address}/32`, 'dev', 'lo'])))
    return address
  }
}

/** A DNS server for a lab: knows A records by name and nothing else. */
export interface LabDns {
  readonly port: number
  /** The names that it was asked for, small and without a dot at the end. */
  readonly asked: readonly string[]
}

/** Starts a DNS server over UDP at an address of this computer. @param records name, without a dot at the end, to IPv4 address */
export async function startDns(lab: Lab, address: string, port: number, records: Readonly<Record<string, string>>): Promise<LabDns> {
  const asked: string[] = []
  const socket = dgram.createSocket('udp4')
  socket.on('message', (bytes, from) => {
    const query = decodeDns(bytes)
    const question = query?.questions[0]
    if (query === undefined || question === undefined || query.response) return
    const name = question.name.replace(/\.$/, '').toLowerCase()
    asked.push(name)
    const found = parseIp(records[name] ?? '')
    const answers: readonly DnsRecord[] = found === undefined || question.type !== DNS_TYPE_A ? [] : [{ name: question.name, class: DNS_CLASS_IN, ttl: 60, data: { type: 'A', address: found } }]
    const answer = encodeDns({ id: query.id, opcode: query.opcode, response: true, recursionDesired: query.recursionDesired ?? false, recursionAvailable: true, rcode: found === undefined ? RCODE_NAME_ERROR : RCODE_NO_ERROR, questions: [question], answers })
    socket.send(answer, from.port, from.address)
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.bind(port, address, resolve)
  })
  lab.onStop(() => {
    socket.close()
  })
  return { port: socket.address().port, asked }
}
