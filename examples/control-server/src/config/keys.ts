import { parsePrefix } from '@meshwright/ip'
import { parseDuration } from './duration.ts'

/** Why a value cannot stand at a key, or `undefined` when it can. */
export type Check = (value: unknown) => string | undefined

/** One key of the configuration file. */
export type KeyRule =
  | { readonly kind: 'value'; readonly check: Check }
  /** Names below are free: `split.NAME`. */
  | { readonly kind: 'map'; readonly check: Check }
  /** Known from headscale 0.29, not built here. Some values are harmless because they ask for nothing. */
  | { readonly kind: 'unbuilt'; readonly harmless: readonly unknown[]; readonly why: string }
  /** Only means something together with another key that is not built, or is off. */
  | { readonly kind: 'idle' }
  /** An old name. */
  | { readonly kind: 'renamed'; readonly to: string }

const text: Check = (value) => (typeof value === 'string' && value !== '' ? undefined : 'expected a text')
const textOrEmpty: Check = (value) => (typeof value === 'string' ? undefined : 'expected a text')
const flag: Check = (value) => (typeof value === 'boolean' ? undefined : 'expected true or false')
const count: Check = (value) => (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? undefined : 'expected a number, 0 or more')
const texts: Check = (value) => (Array.isArray(value) && value.every((item) => typeof item === 'string') ? undefined : 'expected a list of texts')
const oneOf =
  (...allowed: readonly string[]): Check =>
  (value) =>
    typeof value === 'string' && allowed.includes(value) ? undefined : `expected one of ${allowed.join(', ')}`
const duration: Check = (value) =>
  (typeof value === 'string' || value === 0) && parseDuration(String(value)) !== undefined ? undefined : 'expected a duration such as 30m, 24h, 180d or 0'
const listen: Check = (value) =>
  typeof value === 'string' && /^(\[[0-9a-fA-F:.]+\]|[^:\s]*):[0-9]{1,5}$/.test(value) && Number(value.slice(value.lastIndexOf(':') + 1)) <= 65535
    ? undefined
    : 'expected an address and a port, such as 127.0.0.1:8080'
const listenOrEmpty: Check = (value) => (value === '' ? undefined : listen(value))
const url: Check = (value) => {
  const problem = 'expected a URL such as https://control.example.com'
  if (typeof value !== 'string' || !URL.canParse(value)) return problem
  const { protocol, pathname, search } = new URL(value)
  return (protocol === 'http:' || protocol === 'https:') && pathname === '/' && search === '' ? undefined : problem
}
const prefix =
  (family: 4 | 6): Check =>
  (value) => {
    const parsed = typeof value === 'string' && value.includes('/') ? parsePrefix(value) : undefined
    if (parsed?.ip.family !== family) return `expected an IPv${family} prefix`
    return parsed.ip.bits - parsed.bits < 2 ? 'expected a prefix with room for at least two addresses' : undefined
  }
const prefixes: Check = (value) =>
  Array.isArray(value) && value.every((item) => typeof item === 'string' && parsePrefix(item) !== undefined) ? undefined : 'expected a list of prefixes or addresses such as 10.0.0.1/32'
const mode: Check = (value) => (/^0?[0-7]{3}$/.test(String(value)) ? undefined : 'expected file permissions such as "0770"')
const domain: Check = (value) =>
  typeof value === 'string' && /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/i.test(value) ? undefined : 'expected a domain such as mesh.example.com'
const records: Check = (value) => {
  const fine =
    Array.isArray(value) &&
    value.every(
      (item: unknown) =>
        typeof item === 'object' && item !== null && 'name' in item && typeof item.name === 'string' && 'type' in item && (item.type === 'A' || item.type === 'AAAA') && 'value' in item && typeof item.value === 'string',
    )
  return fine ? undefined : 'expected a list of {name, type: A or AAAA, value}'
}

const value = (check: Check): KeyRule => ({ kind: 'value', check })
const unbuilt = (why: string, ...harmless: readonly unknown[]): KeyRule => ({ kind: 'unbuilt', harmless, why })
const idle: KeyRule = { kind: 'idle' }

/** Every key of headscale 0.29's configuration, and what becomes of it here. */
export const KEYS: ReadonlyMap<string, KeyRule> = new Map<string, KeyRule>([
  ['server_url', value(url)],
  ['listen_addr', value(listen)],
  ['metrics_listen_addr', value(listenOrEmpty)],
  ['grpc_listen_addr', unbuilt('there is no gRPC: the command line uses the Unix socket', '')],
  ['grpc_allow_insecure', unbuilt('there is no gRPC: the command line uses the Unix socket', false)],
  ['unix_socket', value(text)],
  ['unix_socket_permission', value(mode)],
  ['trusted_proxies', value(prefixes)],
  ['noise.private_key_path', value(text)],
  ['prefixes.v4', value(prefix(4))],
  ['prefixes.v6', value(prefix(6))],
  ['prefixes.allocation', value(oneOf('sequential', 'random'))],
  ['derp.server.enabled', value(flag)],
  ['derp.server.region_id', value(count)],
  ['derp.server.region_code', value(text)],
  ['derp.server.region_name', value(text)],
  ['derp.server.stun_listen_addr', value(listenOrEmpty)],
  ['derp.server.private_key_path', value(text)],
  ['derp.server.verify_clients', value(flag)],
  ['derp.server.automatically_add_embedded_derp_region', value(flag)],
  ['derp.server.ipv4', value(textOrEmpty)],
  ['derp.server.ipv6', value(textOrEmpty)],
  ['derp.urls', unbuilt('relay maps are read from derp.paths only', [], null)],
  ['derp.paths', value(texts)],
  ['derp.auto_update_enabled', unbuilt('relay maps are read at start only', false)],
  ['derp.update_frequency', idle],
  ['disable_check_updates', unbuilt('this server never looks for updates', true)],
  ['node.expiry', value(duration)],
  ['node.ephemeral.inactivity_timeout', value(duration)],
  ['ephemeral_node_inactivity_timeout', { kind: 'renamed', to: 'node.ephemeral.inactivity_timeout' }],
  ['node.routes.ha.probe_interval', value(duration)],
  ['node.routes.ha.probe_timeout', value(duration)],
  ['preauth_keys.revoked_retention', unbuilt('expired keys stay until they are deleted')],
  ['database.type', value(oneOf('sqlite', 'sqlite3'))],
  ['database.debug', unbuilt('queries are not logged', false)],
  ['database.sqlite.path', value(text)],
  ['database.sqlite.write_ahead_log', value(flag)],
  ['database.sqlite.wal_autocheckpoint', value(count)],
  ...['host', 'port', 'name', 'user', 'pass', 'ssl', 'max_open_conns', 'max_idle_conns', 'conn_max_idle_time_secs'].map(
    (key): [string, KeyRule] => [`database.postgres.${key}`, unbuilt('only database.type sqlite works')],
  ),
  ...['prepare_stmt', 'parameterized_queries', 'skip_err_record_not_found', 'slow_threshold'].map(
    (key): [string, KeyRule] => [`database.gorm.${key}`, unbuilt('the database layer has no such setting')],
  ),
  ['tls_cert_path', value(textOrEmpty)],
  ['tls_key_path', value(textOrEmpty)],
  ['tls_letsencrypt_hostname', unbuilt('certificates come from files: tls_cert_path and tls_key_path', '')],
  ['tls_letsencrypt_cache_dir', idle],
  ['tls_letsencrypt_challenge_type', idle],
  ['tls_letsencrypt_listen', idle],
  ['acme_url', idle],
  ['acme_email', idle],
  ['policy.mode', value(oneOf('file', 'database'))],
  ['policy.path', value(textOrEmpty)],
  ['dns.magic_dns', value(flag)],
  ['dns.base_domain', value(domain)],
  ['dns.override_local_dns', value(flag)],
  ['dns.nameservers.global', value(texts)],
  ['dns.nameservers.split', { kind: 'map', check: texts }],
  ['dns.search_domains', value(texts)],
  ['dns.extra_records', value(records)],
  ['dns.extra_records_path', unbuilt('list the records under dns.extra_records', '')],
  ...[
    'issuer', 'client_id', 'client_secret', 'client_secret_path', 'scope', 'extra_params', 'allowed_domains', 'allowed_users', 'allowed_groups',
    'email_verified_required', 'use_expiry_from_token', 'only_start_if_oidc_is_available', 'expiry', 'pkce.enabled', 'pkce.method',
  ].map((key): [string, KeyRule] => [`oidc.${key}`, unbuilt('logins are approved on the command line: auth register')]),
  ['logtail.enabled', value(flag)],
  ['taildrop.enabled', value(flag)],
  ['auto_update.enabled', value(flag)],
  ['randomize_client_port', unbuilt('set randomizeClientPort in the policy', false)],
  ['log.level', value(oneOf('trace', 'debug', 'info', 'warn', 'error'))],
  ['log.format', value(oneOf('text', 'json'))],
  ['tuning.batch_change_delay', value(duration)],
  ['tuning.register_cache_expiration', value(duration)],
  ['tuning.register_cache_max_entries', value(count)],
  ...['notifier_send_timeout', 'node_mapsession_buffered_chan_size', 'batcher_workers', 'node_store_batch_size', 'node_store_batch_timeout', 'register_cache_cleanup'].map(
    (key): [string, KeyRule] => [`tuning.${key}`, unbuilt('this server is built differently and needs no such setting')],
  ),
  ...['address', 'api_key', 'timeout', 'insecure'].map((key): [string, KeyRule] => [`cli.${key}`, unbuilt('the command line uses the Unix socket')]),
]) // prettier-ignore
