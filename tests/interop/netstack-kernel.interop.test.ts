import { netstackFlows } from './netstack-flows.ts'

netstackFlows('kernel', 'linux')
