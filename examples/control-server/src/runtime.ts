// One place that names the parts of the runtime that this server uses: entries that load no mesh engine.
export { acceptControl, drive, nodeCryptoProvider, suspendAwareClock, systemRandom } from '@meshwright/runtime-node/control'
export type { AcceptedControl, Driver } from '@meshwright/runtime-node/control'
export { attachDerpServer, startStunService } from '@meshwright/runtime-node/relay'
export type { DerpService, StunService } from '@meshwright/runtime-node/relay'
