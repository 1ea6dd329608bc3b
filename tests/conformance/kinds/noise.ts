import { readdir, readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { type CryptoProvider, NoiseHandshake, type NoisePattern } from '@meshwright/crypto'
import { formatHex, parseHex } from '@meshwright/core'
import { type CaseResult, type Kind, UnknownForm } from '../kind.ts'
import { cryptoProviders } from '../providers.ts'

interface Vector {
  readonly protocol_name: string
  readonly init_prologue: string
  readonly init_static: string
  readonly init_ephemeral: string
  readonly init_remote_static: string
  readonly init_psks?: readonly string[]
  readonly resp_prologue: string
  readonly resp_static: string
  readonly resp_ephemeral: string
  readonly resp_psks?: readonly string[]
  readonly handshake_hash?: string
  readonly messages: readonly { readonly payload: string; readonly ciphertext: string }[]
}

/** Published Noise vectors of the IK family, run with every provider as initiator and as responder. */
export const kind: Kind = {
  name: 'noise',
  defaultPath: 'vectors/noise',
  copied: false,
  async run(location: string): Promise<readonly CaseResult[]> {
    const files = (await stat(location)).isDirectory() ? (await readdir(location)).filter((name) => name.endsWith('.json')).map((name) => path.join(location, name)) : [location]
    const results: CaseResult[] = []
    for (const file of files.sort()) {
      const data = JSON.parse(await readFile(file, 'utf8')) as { readonly vectors?: readonly Vector[] }
      if (!Array.isArray(data.vectors)) throw new UnknownForm(file, 'an object with "vectors"')
      data.vectors.forEach((vector: Vector, index: number) => {
        for (const provider of cryptoProviders()) {
          const detail = check(vector, provider)
          const group = `${vector.protocol_name}/${provider.name}`
          results.push({ group, id: `${path.basename(file)}#${index}/${provider.name}`, passed: detail === undefined, ...(detail === undefined ? {} : { detail }) })
        }
      })
    }
    return results
  },
}

function check(vector: Vector, provider: CryptoProvider): string | undefined {
  const pattern = /^Noise_(IK|IKpsk1|IKpsk2)_25519_ChaChaPoly_BLAKE2s$/.exec(vector.protocol_name)?.[1] as NoisePattern | undefined
  if (pattern === undefined) return `protocol ${vector.protocol_name} is not ours`
  const party = (role: 'initiator' | 'responder'): NoiseHandshake => {
    const initiator = role === 'initiator'
    const psk = (initiator ? vector.init_psks : vector.resp_psks)?.[0]
    return new NoiseHandshake({
      pattern,
      role,
      provider,
      random: () => hex(initiator ? vector.init_ephemeral : vector.resp_ephemeral),
      prologue: hex(initiator ? vector.init_prologue : vector.resp_prologue),
      staticPrivateKey: hex(initiator ? vector.init_static : vector.resp_static),
      ...(initiator ? { remoteStaticKey: hex(vector.init_remote_static) } : {}),
      ...(psk === undefined ? {} : { psk: hex(psk) }),
    })
  }
  const initiator = party('initiator')
  const responder = party('responder')
  const [first, second, ...rest] = vector.messages
  if (first === undefined || second === undefined) return 'fewer than two messages'
  for (const [writer, reader, message] of [[initiator, responder, first], [responder, initiator, second]] as const) {
    const sent = writer.writeMessage(hex(message.payload))
    if (sent === undefined || formatHex(sent) !== message.ciphertext) return 'handshake message differs'
    const payload = reader.readMessage(hex(message.ciphertext))
    if (payload === undefined || formatHex(payload) !== message.payload) return 'handshake payload differs'
  }
  const ours = initiator.finish()
  const theirs = responder.finish()
  if (ours === undefined || theirs === undefined) return 'the handshake did not finish'
  if (formatHex(ours.handshakeHash) !== formatHex(theirs.handshakeHash)) return 'the two handshake hashes differ'
  if (vector.handshake_hash !== undefined && formatHex(ours.handshakeHash) !== vector.handshake_hash) return 'handshake hash differs'
  const counters = [0n, 0n]
  for (const [index, message] of rest.entries()) {
    const fromInitiator = index % 2 === 0
    const nonce = new Uint8Array(12)
    const direction = fromInitiator ? 0 : 1
    new DataView(nonce.buffer).setBigUint64(4, counters[direction] ?? 0n, true)
    counters[direction] = (counters[direction] ?? 0n) + 1n
    const sealed = provider.aeadSeal(fromInitiator ? ours.sendKey : theirs.sendKey, nonce, hex(message.payload))
    if (formatHex(sealed) !== message.ciphertext) return `transport message ${index} differs`
    const opened = provider.aeadOpen(fromInitiator ? theirs.receiveKey : ours.receiveKey, nonce, hex(message.ciphertext))
    if (opened === undefined || formatHex(opened) !== message.payload) return `transport message ${index} does not open`
  }
  return undefined
}

function hex(text: string): Uint8Array {
  const bytes = parseHex(text)
  if (bytes === undefined) throw new Error(`not hexadecimal: ${text}`)
  return bytes
}
