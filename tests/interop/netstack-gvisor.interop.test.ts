import { netstackFlows } from './netstack-flows.ts'

// As tests/interop/go/tcp-peer/go.mod says.
netstackFlows('gvisor', 'gvisor@20260224')
