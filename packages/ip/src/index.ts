export { compareIps, formatIp, Ip, parseIp, type IpFamily } from './address.ts'
export { equalEndpoints, formatEndpoint, parseEndpoint, type Endpoint } from './endpoint.ts'
export { equalPrefixes, formatPrefix, hasHostBits, parsePrefix, prefixContains, prefixCovers, prefixOf, singleAddress, type Prefix } from './prefix.ts'
