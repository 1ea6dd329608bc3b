// One place that names the parts of the runtime that this server uses.
export { acceptControl, attachDerpServer, drive, nodeCryptoProvider, startStunService, suspendAwareClock, systemRandom } from '@meshwright/runtime-node'
export type { AcceptedControl, DerpService, Driver, StunService } from '@meshwright/runtime-node'
