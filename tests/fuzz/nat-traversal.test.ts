import { parseHex } from '@meshwright/core'
import { DiscoPrivateKey, DiscoPublicKey } from '@meshwright/crypto'
import { parseEndpoint } from '@meshwright/ip'
import { answerBinding, classifyDatagram, decodeBindingAnswer, decodeDiscoMessage, decodeGeneve, decodeNatPmpResponse, decodePcpResponse, decodeStunMessage, DiscoBox, discoSender } from '@meshwright/nat-traversal'
import { fuzzDecoder } from './fuzz-decoder.ts'

const STUN = [
  '000100142112a442000102030405060708090a0b802200087461696c6e6f6465802800048aabad90',
  '0101000c2112a442000102030405060708090a0b00200008000183bbea12d545',
  '010100302112a4423869828692ca9811c3c1d1ec000100140002ab53fc9901010101010101010101010101100020001400028a41dc8aa4423869828692ca9811c3c1d1fd',
].map(hex)
const REQUESTS = STUN.slice(0, 1)
const ANSWERS = STUN.slice(1)

const KEY = '07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c'
const ADDRESS = '00000000000000000000ffffcb007107a2a9'
const MESSAGES = [
  `0100000102030405060708090a0b${KEY}0000`,
  `0200000102030405060708090a0b${ADDRESS}`,
  `0300${ADDRESS}${ADDRESS}`,
  `04000000000101020304${KEY}${KEY}`,
  `0700${relayEndpoint()}`,
  `0800${KEY}${KEY}00000001`,
  `090000000001${relayEndpoint()}`,
].map(hex)
const GENEVE = hex('00807a11010203005453f09f92ac')
const CLIENT = parseEndpoint('203.0.113.7:41641')

function relayEndpoint(): string {
  return `${KEY}${KEY}${KEY}${'00'.repeat(7)}01${'00000001'}${'00000006fc23ac00'}${'00000045d964b800'}${ADDRESS}`
}

fuzzDecoder('decodeStunMessage', STUN, decodeStunMessage)
fuzzDecoder('decodeBindingAnswer', ANSWERS, decodeBindingAnswer)
fuzzDecoder('answerBinding', REQUESTS, (bytes) => CLIENT && answerBinding(bytes, CLIENT))
fuzzDecoder('decodeDiscoMessage', MESSAGES, decodeDiscoMessage)
fuzzDecoder('decodeGeneve', [GENEVE], decodeGeneve)
fuzzDecoder('decodeNatPmpResponse', ['008000000000000ac6336407', '008100000000000aa2a91b5800001c20'].map(hex), decodeNatPmpResponse)
fuzzDecoder('decodePcpResponse', [`0280000000000000${'00'.repeat(16)}`, `0281000000001c20${'00'.repeat(16)}${'09'.repeat(12)}11000000a2a91b58${'00'.repeat(10)}ffffc6336407`].map(hex), decodePcpResponse)
fuzzDecoder('classifyDatagram', [...STUN, GENEVE], classifyDatagram)

const privateKey = DiscoPrivateKey.fromBytes(Uint8Array.from({ length: 32 }, (_, i) => i + 1))
const peer = DiscoPublicKey.fromBytes(hex(KEY))
if (privateKey === undefined || peer === undefined) throw new Error('fixed keys')
const box = new DiscoBox({ privateKey, random: (length) => new Uint8Array(length) })
const sealed = box.seal(peer, hex(`0300${ADDRESS}`))
fuzzDecoder('discoSender', sealed ? [sealed] : [], discoSender)
fuzzDecoder('DiscoBox.open', sealed ? [sealed] : [], (bytes) => box.open(peer, bytes))

function hex(text: string): Uint8Array {
  const bytes = parseHex(text)
  if (bytes === undefined) throw new Error(`not hexadecimal: ${text}`)
  return bytes
}
