export { NoiseHandshake, type NoiseHandshakeOptions, type NoisePattern, type NoiseSessionKeys } from './handshake.ts'
export { SymmetricState } from './symmetric-state.ts'
