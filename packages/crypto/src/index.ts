export { constantTimeEqual, isAllZero } from './constant-time.ts'
export type { CryptoProvider, KeySlot } from './provider.ts'
export * from './keys/index.ts'
