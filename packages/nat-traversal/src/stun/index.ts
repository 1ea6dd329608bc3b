export {
  decodeMappedAddress,
  decodeXorMappedAddress,
  encodeMappedAddress,
  encodeXorMappedAddress,
  ERROR_CODE,
  FINGERPRINT,
  MAGIC_COOKIE,
  MAPPED_ADDRESS,
  SOFTWARE,
  type StunAttribute,
  XOR_MAPPED_ADDRESS,
  XOR_MAPPED_ADDRESS_DRAFT,
} from './attributes.ts'
export { fingerprintOf } from './fingerprint.ts'
export {
  BINDING_ERROR,
  BINDING_REQUEST,
  BINDING_RESPONSE,
  type DecodedStunMessage,
  decodeStunMessage,
  encodeStunMessage,
  findAttribute,
  type StunMessage,
  TRANSACTION_ID_BYTES,
} from './message.ts'
export { type BindingAnswer, decodeBindingAnswer, encodeBindingRequest, RELAY_CLIENT_SOFTWARE } from './binding.ts'
export { answerBinding, type AnswerBindingOptions } from './server.ts'
export { type BindingConfig, type BindingInput, type BindingOutput, BindingTransaction } from './transaction.ts'
