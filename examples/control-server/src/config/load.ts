import { parsePrefix, type Prefix } from '@meshwright/ip'
import { type ControlServerConfig, controlServerConfig } from '@meshwright/control-server'
import type { DERPMap } from '@meshwright/control-protocol'
import { isMap, isPair, isScalar, type Node } from 'yaml'
import { Failure } from '../failure.ts'
import { parseDuration } from './duration.ts'
import { KEYS } from './keys.ts'
import { nearest } from './nearest.ts'
import { readYaml } from './yaml.ts'

/** The settings of a server, checked. */
export interface ServerSettings {
  readonly file: string
  readonly serverUrl: string
  readonly listenAddr: string
  readonly metricsListenAddr: string
  readonly unixSocket: string
  readonly unixSocketMode: number
  readonly noiseKeyPath: string
  readonly databasePath: string
  readonly writeAheadLog: boolean
  readonly walAutocheckpoint: number
  readonly tls: { readonly certPath: string; readonly keyPath: string } | undefined
  readonly policy: { readonly mode: 'file' | 'database'; readonly path: string }
  /** Whose word counts for where a client comes from. */
  readonly trustedProxies: readonly Prefix[]
  readonly relayMapPaths: readonly string[]
  readonly relay: RelaySettings | undefined
  readonly log: { readonly level: string; readonly format: string }
  /** Everything for the state machine but the relay map. */
  controlConfig(derpMap: DERPMap): ControlServerConfig
}

/** The embedded relay. */
export interface RelaySettings {
  readonly regionId: number
  readonly regionCode: string
  readonly regionName: string
  readonly stunListenAddr: string
  readonly keyPath: string
  readonly verifyClients: boolean
  readonly addRegion: boolean
  readonly ipv4: string
  readonly ipv6: string
}

/** Where the socket is unless the file says otherwise. */
export const DEFAULT_SOCKET = '/var/run/meshwright/control.sock'

/**
 * Reads and checks a configuration file. Nothing in it is ignored: a key that is not known, not built, or wrong is refused with its place.
 * @throws Failure with status 2
 */
export function loadSettings(file: string): ServerSettings {
  const values = readValues(file)
  const get = <T>(key: string, fallback: T): T => (values.has(key) ? (values.get(key) as T) : fallback) // sound: each key's check has seen the value
  const demand = (key: string, why: string): string => {
    const found = get(key, '')
    if (found === '') throw new Failure(`${file}: ${key} is missing`, { remedy: why, status: 2 })
    return found
  }
  const duration = (key: string, fallback: string): number => parseDuration(String(get<unknown>(key, fallback))) ?? 0
  const serverUrl = demand('server_url', 'set it to the address that clients reach this server at').replace(/\/$/, '')
  const baseDomain = demand('dns.base_domain', 'set it to the domain under which nodes have their names, such as mesh.example.com')
  const host = new URL(serverUrl).hostname
  if (host === baseDomain || host.endsWith(`.${baseDomain}`)) {
    throw new Failure(`${file}: server_url ${serverUrl} lies under dns.base_domain ${baseDomain}: clients would look for this server inside the mesh`, {
      remedy: 'choose another base_domain',
      status: 2,
    })
  }
  const certPath = get('tls_cert_path', '')
  const keyPath = get('tls_key_path', '')
  if ((certPath === '') !== (keyPath === '')) {
    throw new Failure(`${file}: tls_cert_path and tls_key_path go together`, { remedy: 'set both or none', status: 2 })
  }
  const ephemeral = duration('node.ephemeral.inactivity_timeout', '120s')
  if (ephemeral < 65_000) {
    throw new Failure(`${file}: node.ephemeral.inactivity_timeout must be at least 65s: a node may be quiet that long between two polls`, { status: 2 })
  }
  const [routeProbeMs, routeProbeTimeoutMs] = [duration('node.routes.ha.probe_interval', '10s'), duration('node.routes.ha.probe_timeout', '5s')]
  if (routeProbeMs > 0 && (routeProbeMs < 1_000 || routeProbeTimeoutMs < 500 || routeProbeTimeoutMs > routeProbeMs)) {
    throw new Failure(`${file}: node.routes.ha.probe_timeout must lie between 500ms and probe_interval, and that be 1s or more`, { remedy: 'probe_interval: 0 turns probes off', status: 2 })
  }
  const relay = get('derp.server.enabled', false)
    ? {
        regionId: get('derp.server.region_id', 999),
        regionCode: get('derp.server.region_code', 'meshwright'),
        regionName: get('derp.server.region_name', 'Embedded relay'),
        stunListenAddr: get('derp.server.stun_listen_addr', '0.0.0.0:3478'),
        keyPath: demand('derp.server.private_key_path', 'name the file that holds the relay\'s key; it is made on the first start'),
        verifyClients: get('derp.server.verify_clients', true),
        addRegion: get('derp.server.automatically_add_embedded_derp_region', true),
        ipv4: get('derp.server.ipv4', ''),
        ipv6: get('derp.server.ipv6', ''),
      }
    : undefined
  const both = !values.has('prefixes.v4') && !values.has('prefixes.v6')
  return {
    file,
    serverUrl,
    listenAddr: get('listen_addr', '127.0.0.1:8080'),
    metricsListenAddr: get('metrics_listen_addr', ''),
    unixSocket: get('unix_socket', DEFAULT_SOCKET),
    unixSocketMode: Number.parseInt(String(get<unknown>('unix_socket_permission', '0770')), 8),
    noiseKeyPath: demand('noise.private_key_path', 'name the file that holds the server\'s key; it is made on the first start'),
    databasePath: demand('database.sqlite.path', 'name the database file; it is made on the first start'),
    writeAheadLog: get('database.sqlite.write_ahead_log', true),
    walAutocheckpoint: get('database.sqlite.wal_autocheckpoint', 1000),
    tls: certPath === '' ? undefined : { certPath, keyPath },
    policy: { mode: get<string>('policy.mode', 'file') === 'database' ? 'database' : 'file', path: get('policy.path', '') },
    trustedProxies: get<readonly string[]>('trusted_proxies', []).flatMap((text) => parsePrefix(text) ?? []),
    relayMapPaths: get<readonly string[]>('derp.paths', []),
    relay,
    log: { level: get('log.level', 'info'), format: get('log.format', 'text') },
    controlConfig: (derpMap) =>
      controlServerConfig({
        serverUrl,
        baseDomain,
        derpMap,
        prefixV4: both ? parsePrefix('100.64.0.0/10') : values.has('prefixes.v4') ? parsePrefix(get('prefixes.v4', '')) : undefined,
        prefixV6: both ? parsePrefix('fd7a:115c:a1e0::/48') : values.has('prefixes.v6') ? parsePrefix(get('prefixes.v6', '')) : undefined,
        allocation: get<string>('prefixes.allocation', 'sequential') === 'random' ? 'random' : 'sequential',
        nodeExpiryMs: duration('node.expiry', '0'),
        ephemeralInactivityMs: ephemeral,
        dns: {
          magicDns: get('dns.magic_dns', true),
          overrideLocalDns: get('dns.override_local_dns', true),
          globalNameservers: get<readonly string[]>('dns.nameservers.global', []),
          splitNameservers: Object.fromEntries([...values].filter(([key]) => key.startsWith(SPLIT)).map(([key, servers]) => [key.slice(SPLIT.length), servers as string[]])),
          searchDomains: get<readonly string[]>('dns.search_domains', []),
          extraRecords: get<readonly { name: string; type: string; value: string }[]>('dns.extra_records', []),
        },
        taildrop: get('taildrop.enabled', true),
        logtail: get('logtail.enabled', false),
        autoUpdate: get('auto_update.enabled', false),
        routeProbeMs,
        routeProbeTimeoutMs,
        batchMs: duration('tuning.batch_change_delay', '50ms'),
        pendingLoginMs: duration('tuning.register_cache_expiration', '15m'),
        maxPendingLogins: get('tuning.register_cache_max_entries', 1024),
      }),
  }
}

const SPLIT = 'dns.nameservers.split.'

/** All keys with their values, checked one by one against the table. */
function readValues(file: string): Map<string, unknown> {
  const { document, lines } = readYaml(file, 'the configuration', 'name an existing file with --config')
  if (!isMap(document.contents)) throw new Failure(`${file}: the configuration is empty`, { remedy: 'set at least server_url and dns.base_domain', status: 2 })
  const values = new Map<string, unknown>()
  walk(document.contents, '', (key, node, leaf) => {
    const at = lines.linePos(node.range?.[0] ?? 0)
    const refuse = (message: string, remedy?: string): never => {
      throw new Failure(`${file}:${at.line}:${at.col}: ${message}`, { status: 2, ...(remedy !== undefined && { remedy }) })
    }
    accept(key, leaf, values, refuse)
  })
  return values
}

function accept(key: string, leaf: unknown, values: Map<string, unknown>, refuse: (message: string, remedy?: string) => never): void {
  const rule = KEYS.get(key) ?? (key.startsWith(SPLIT) ? KEYS.get('dns.nameservers.split') : undefined)
  if (rule === undefined) {
    const near = nearest(key, KEYS.keys())
    refuse(`unknown key ${key}`, near === undefined ? undefined : `did you mean ${near}?`)
    return
  }
  switch (rule.kind) {
    case 'unbuilt':
      if (!rule.harmless.some((harmless) => JSON.stringify(harmless) === JSON.stringify(leaf))) refuse(`${key} is not supported: ${rule.why}`, 'remove it')
      return
    case 'renamed':
      return refuse(`${key} is an old name`, `write ${rule.to}`)
    case 'idle':
      return
    default: {
      if (rule.kind === 'map' && key === 'dns.nameservers.split') return leaf === null || JSON.stringify(leaf) === '{}' ? undefined : refuse(`${key}: expected names and their servers`)
      const problem = rule.check(leaf)
      if (problem !== undefined) {
        const postgres = key === 'database.type' && leaf === 'postgres'
        refuse(postgres ? 'database.type postgres is not supported: only sqlite works' : `${key}: ${problem}`)
      }
      values.set(key, leaf)
    }
  }
}

/** Calls `visit` for every key that is no mere section. */
function walk(node: unknown, prefix: string, visit: (key: string, node: Node, leaf: unknown) => void): void {
  if (!isMap(node)) return
  for (const pair of node.items) {
    if (!isPair(pair) || !isScalar(pair.key)) continue
    const key = `${prefix}${String(pair.key.value)}`
    const inside = isMap(pair.value) && pair.value.items.length > 0
    if (inside && !KEYS.has(key)) walk(pair.value, `${key}.`, visit)
    else if (inside && key === SPLIT.slice(0, -1)) walk(pair.value, SPLIT, visit)
    else if (!(isEmptySection(pair.value) && [...KEYS.keys()].some((known) => known.startsWith(`${key}.`)))) visit(key, pair.key, toValue(pair.value))
  }
}

function isEmptySection(value: unknown): boolean {
  return value === null || (isScalar(value) && value.value === null) || (isMap(value) && value.items.length === 0)
}

function toValue(value: unknown): unknown {
  return typeof value === 'object' && value !== null && 'toJSON' in value && typeof value.toJSON === 'function' ? (value.toJSON() as unknown) : value
}
