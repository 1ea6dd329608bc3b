export {
  decodeNatPmpResponse,
  encodeNatPmpAddressRequest,
  encodeNatPmpMapRequest,
  GATEWAY_PORT,
  type NatPmpResponse,
  type PortMapRequest,
} from './nat-pmp.ts'
export { decodePcpResponse, encodePcpAnnounce, encodePcpMapRequest, PCP_NONCE_BYTES, type PcpResponse } from './pcp.ts'
export { type PortMapFailure, type PortMapInput, type PortMapNetwork, type PortMapOutput, PortMapper } from './port-mapper.ts'
