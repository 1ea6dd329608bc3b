import { type Endpoint, type Ip, parseEndpoint, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'

/** What must be there for the test to mean anything. */
export function must<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the test has a mistake')
  return value
}

export const ip = (text: string): Ip => must(parseIp(text))
export const prefix = (text: string): Prefix => must(parsePrefix(text))
export const endpoint = (text: string): Endpoint => must(parseEndpoint(text))
