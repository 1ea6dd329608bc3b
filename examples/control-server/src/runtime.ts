// One place that names the runtime's parts: a server loads no engine, no TUN and no client.
export { acceptControl, type AcceptedControl } from '../../../packages/runtime-node/src/control-accept.ts'
export { attachDerpServer, type DerpService } from '../../../packages/runtime-node/src/derp-accept.ts'
export { startStunService, type StunService } from '../../../packages/runtime-node/src/stun-service.ts'
export { suspendAwareClock } from '../../../packages/runtime-node/src/clock.ts'
export { drive, type Driver } from '../../../packages/runtime-node/src/drive.ts'
export { systemRandom } from '../../../packages/runtime-node/src/random.ts'
export { nodeCryptoProvider } from '../../../packages/runtime-node/src/node-crypto.ts'
