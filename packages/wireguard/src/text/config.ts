import { NodePrivateKey, type NodePublicKey } from '@meshwright/crypto'
import { formatIp, formatPrefix, hasHostBits, parseIp, parsePrefix, type Prefix } from '@meshwright/ip'
import { formatPublicKey, formatSecretKey, parseKeyText, parsePublicKey } from './key-text.ts'

/** The `[Interface]` section of a `wg` or `wg-quick` file. */
export interface InterfaceConfig {
  privateKey?: NodePrivateKey
  listenPort?: number
  fwmark?: number
  /** wg-quick: own addresses with their prefix lengths, host bits kept: `10.0.0.1/24`. */
  addresses: string[]
  /** wg-quick: DNS servers. */
  dnsServers: string[]
  /** wg-quick: DNS search domains. */
  dnsSearch: string[]
  mtu?: number
  /** wg-quick: `auto`, `off`, a number or a name. */
  table?: string
  preUp: string[]
  postUp: string[]
  preDown: string[]
  postDown: string[]
  saveConfig?: boolean
}

/** A `[Peer]` section. */
export interface PeerSection {
  publicKey?: NodePublicKey
  /** 32 bytes. */
  presharedKey?: Uint8Array
  allowedIps: Prefix[]
  /** A host name or an address, and a port: names are for the caller to resolve. */
  endpoint?: { readonly host: string; readonly port: number }
  /** 0 for off. */
  persistentKeepaliveSeconds?: number
}

/** A whole file. */
export interface ConfigFile {
  readonly interface: InterfaceConfig
  readonly peers: PeerSection[]
}

/** Something about a file that its writer should know. Never holds a value, since values can be secrets. */
export interface ConfigDiagnostic {
  readonly severity: 'error' | 'warning'
  /** 1-based. */
  readonly line: number
  /** 1-based: where the value begins, or the key. */
  readonly column: number
  readonly message: string
}

const MAX_PORT = 65_535

/**
 * Reads a configuration file of `wg setconf` or `wg-quick` (man 8 wg, man 8 wg-quick): sections and keys in any case, `#` begins a
 * comment except in the values of hooks, spaces inside values do not count. All problems are reported, each with its place; use the
 * file only when none of them is an error.
 */
export function parseConfig(text: string): { readonly config: ConfigFile; readonly diagnostics: readonly ConfigDiagnostic[] } {
  const config: ConfigFile = { interface: { addresses: [], dnsServers: [], dnsSearch: [], preUp: [], postUp: [], preDown: [], postDown: [] }, peers: [] }
  const diagnostics: ConfigDiagnostic[] = []
  let section: 'none' | 'interface' | PeerSection = 'none'
  let sectionLine = 0
  const closeSection = (): void => {
    if (typeof section === 'object' && section.publicKey === undefined) {
      diagnostics.push({ severity: 'error', line: sectionLine, column: 1, message: 'this peer has no PublicKey' })
    }
  }
  text.split(/\r?\n/).forEach((raw, index) => {
    const line = index + 1
    const report = (column: number, message: string, severity: 'error' | 'warning' = 'error'): void => {
      diagnostics.push({ severity, line, column, message })
    }
    const bare = raw.replace(/#.*$/, '')
    if (bare.trim() === '') return
    const indent = raw.length - raw.trimStart().length
    const heading = bare.replace(/\s/g, '').toLowerCase()
    if (heading === '[interface]' || heading === '[peer]') {
      closeSection()
      sectionLine = line
      section = heading === '[interface]' ? 'interface' : { allowedIps: [] }
      if (typeof section === 'object') config.peers.push(section)
      return
    }
    const at = raw.indexOf('=')
    if (at < 0) return report(indent + 1, 'neither a section nor a line of the form Key = value')
    const key = raw.slice(0, at).trim().toLowerCase()
    const isHook = /^(pre|post)(up|down)$/.test(key)
    const source = isHook ? raw : bare
    const value = isHook ? source.slice(at + 1).trim() : source.slice(at + 1).replace(/\s/g, '')
    const column = at + 2 + (source.length - at - 1 - source.slice(at + 1).trimStart().length)
    const complain = (message: string, severity?: 'error' | 'warning'): void => report(column, message, severity)
    if (section === 'none') report(indent + 1, 'a key before any section')
    else if (section === 'interface') readInterface(config.interface, key, value, complain, () => report(indent + 1, `no key of [Interface]${named(raw.slice(0, at))}`))
    else readPeer(section, key, value, complain, () => report(indent + 1, `no key of [Peer]${named(raw.slice(0, at))}`))
  })
  closeSection()
  return { config, diagnostics }
}

/** Writes a configuration file that {@link parseConfig} reads back. It holds the secrets: mode 0600. */
export function formatConfig(config: ConfigFile): string {
  const own = config.interface
  const lines: string[] = ['[Interface]']
  const add = (key: string, value: string | number | undefined): void => {
    if (value !== undefined && value !== '') lines.push(`${key} = ${value}`)
  }
  add('Address', own.addresses.join(', '))
  add('DNS', [...own.dnsServers, ...own.dnsSearch].join(', '))
  add('MTU', own.mtu)
  add('Table', own.table)
  if (own.saveConfig !== undefined) add('SaveConfig', String(own.saveConfig))
  for (const [key, hooks] of [['PreUp', own.preUp], ['PostUp', own.postUp], ['PreDown', own.preDown], ['PostDown', own.postDown]] as const) {
    for (const hook of hooks) add(key, hook)
  }
  add('ListenPort', own.listenPort)
  if (own.fwmark) add('FwMark', `0x${own.fwmark.toString(16)}`)
  if (own.privateKey !== undefined) add('PrivateKey', formatSecretKey(own.privateKey.secretBytes))
  for (const peer of config.peers) {
    lines.push('', '[Peer]')
    if (peer.publicKey !== undefined) add('PublicKey', formatPublicKey(peer.publicKey))
    if (peer.presharedKey !== undefined) add('PresharedKey', formatSecretKey(peer.presharedKey))
    add('AllowedIPs', peer.allowedIps.map(formatPrefix).join(', '))
    if (peer.endpoint !== undefined) add('Endpoint', peer.endpoint.host.includes(':') ? `[${peer.endpoint.host}]:${peer.endpoint.port}` : `${peer.endpoint.host}:${peer.endpoint.port}`)
    if (peer.persistentKeepaliveSeconds) add('PersistentKeepalive', peer.persistentKeepaliveSeconds)
  }
  return `${lines.join('\n')}\n`
}

type Complain = (message: string, severity?: 'error' | 'warning') => void

function readInterface(own: InterfaceConfig, key: string, value: string, complain: Complain, unknown: () => void): void {
  switch (key) {
    case 'privatekey': {
      const bytes = parseKeyText(value)
      const privateKey = bytes && NodePrivateKey.fromBytes(bytes)
      if (privateKey === undefined) complain('a key is 44 characters of base64')
      else own.privateKey = privateKey
      return
    }
    case 'listenport':
      return readNumber(value, MAX_PORT, complain, (port) => (own.listenPort = port))
    case 'fwmark':
      return readNumber(value === 'off' ? '0' : value, 0xffff_ffff, complain, (mark) => (own.fwmark = mark), true)
    case 'address':
      for (const each of list(value)) {
        if (parsePrefix(each) === undefined) complain('an address is 10.0.0.1/24 or fd00::1/64')
        else own.addresses.push(each)
      }
      return
    case 'dns':
      for (const each of list(value)) (/^[0-9.]+$/.test(each) || each.includes(':') ? own.dnsServers : own.dnsSearch).push(each)
      return
    case 'mtu':
      return readNumber(value, MAX_PORT, complain, (mtu) => (own.mtu = mtu))
    case 'table':
      own.table = value
      return
    case 'preup':
      own.preUp.push(value)
      return
    case 'postup':
      own.postUp.push(value)
      return
    case 'predown':
      own.preDown.push(value)
      return
    case 'postdown':
      own.postDown.push(value)
      return
    case 'saveconfig':
      if (value !== 'true' && value !== 'false') complain('SaveConfig is true or false')
      else own.saveConfig = value === 'true'
      return
    default:
      unknown()
  }
}

function readPeer(peer: PeerSection, key: string, value: string, complain: Complain, unknown: () => void): void {
  switch (key) {
    case 'publickey': {
      const publicKey = parsePublicKey(value)
      if (publicKey === undefined) complain('a key is 44 characters of base64')
      else peer.publicKey = publicKey
      return
    }
    case 'presharedkey': {
      const bytes = parseKeyText(value)
      if (bytes === undefined) complain('a key is 44 characters of base64')
      else peer.presharedKey = bytes
      return
    }
    case 'allowedips':
      for (const each of list(value)) {
        const prefix = parsePrefix(each)
        if (prefix === undefined) complain('allowed IPs are prefixes such as 10.0.0.0/8 or fd00::/8')
        else peer.allowedIps.push(prefix)
        if (hasHostBits(each)) complain(`the address has bits behind its prefix; ${prefix === undefined ? '' : formatPrefix(prefix)} is meant`, 'warning')
      }
      return
    case 'endpoint': {
      const endpoint = parseHostPort(value)
      if (endpoint === undefined) complain('an endpoint is host:port or [address]:port')
      else peer.endpoint = endpoint
      return
    }
    case 'persistentkeepalive':
      return readNumber(value === 'off' ? '0' : value, MAX_PORT, complain, (seconds) => (peer.persistentKeepaliveSeconds = seconds))
    default:
      unknown()
  }
}

function readNumber(text: string, most: number, complain: Complain, take: (value: number) => void, hex: boolean = false): void {
  const value = /^[0-9]{1,10}$/.test(text) || (hex && /^0x[0-9a-fA-F]{1,8}$/.test(text)) ? Number(text) : Number.NaN
  if (value <= most) take(value)
  else complain(`a number from 0 to ${most} is expected`)
}

// Only what can be nothing but a key's name is repeated: with a forgotten `=`, the padding of a secret would be taken for one.
function named(key: string): string {
  return /^[A-Za-z]{1,24}$/.test(key.trim()) ? `: ${key.trim()}` : ''
}

function list(value: string): string[] {
  return value.split(',').filter((each) => each !== '')
}

function parseHostPort(text: string): { readonly host: string; readonly port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):([0-9]{1,5})$/.exec(text)
  if (match === null) return undefined
  const port = Number(match[3])
  const bracketed = match[1] === undefined ? undefined : parseIp(match[1])
  if (port < 1 || port > MAX_PORT || (match[1] !== undefined && bracketed === undefined)) return undefined
  return { host: bracketed === undefined ? (match[2] ?? '') : formatIp(bracketed), port }
}
