import { decodeDns, type DnsRecord } from '@meshwright/magicdns'
import { formatIp } from '@meshwright/ip'
import { CommandError, type Json } from './client.ts'
import type { Command } from './command.ts'
import { needsSubcommand } from './diagnose.ts'
import { object } from './status.ts'

const items = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : [])
const address = (resolver: unknown): string => String(object(resolver)['Addr'] ?? '')

const status: Command = {
  usage: 'meshwright dns status [--all] [--json]',
  summary: 'Show how names of the mesh are answered',
  flags: { all: { type: 'bool', help: 'show everything that the control server has set' }, json: { type: 'bool', help: 'print as JSON' } },
  async run(daemon, flags, output) {
    const [found, prefs] = [await daemon.call('GET', 'status?peers=false'), await daemon.call('GET', 'prefs')]
    const tailnet = found['CurrentTailnet'] === null || found['CurrentTailnet'] === undefined ? undefined : object(found['CurrentTailnet'])
    const config = tailnet === undefined ? {} : await daemon.call('GET', 'dns-config')
    if (flags.values['json'] === true) {
      const told = { TailscaleDNS: prefs['CorpDNS'] === true, ...(tailnet === undefined ? {} : { CurrentTailnet: { MagicDNSEnabled: tailnet['MagicDNSEnabled'], MagicDNSSuffix: tailnet['MagicDNSSuffix'], SelfDNSName: object(found['Self'])['DNSName'] }, ...asJson(config) }) }
      output.out(`${JSON.stringify(told, null, 2)}\n`)
      return 0
    }
    output.out(prefs['CorpDNS'] === true ? 'Names of the mesh: answered by this node ("meshwright set --accept-dns=false" ends it)\n' : 'Names of the mesh: not answered ("meshwright set --accept-dns" begins it)\n')
    if (tailnet === undefined) {
      output.out('The node is in no mesh: log in with "meshwright up".\n')
      return 0
    }
    output.out(tailnet['MagicDNSEnabled'] === true ? `Suffix: ${String(tailnet['MagicDNSSuffix'])}\nThis node is called ${String(object(found['Self'])['DNSName'])}\n` : 'The control server has names switched off.\n')
    const part = (title: string, lines: readonly string[], none: string): void => output.out(`\n${title}:\n${(lines.length === 0 ? [`  (${none})`] : lines.map((line) => `  ${line}`)).join('\n')}\n`)
    part('Resolvers, in order', items(config['Resolvers']).map(address), 'none: those of the system answer everything else')
    const routes = Object.entries(object(config['Routes'])).sort(([a], [b]) => (a < b ? -1 : 1))
    part('Suffixes with resolvers of their own', routes.flatMap(([suffix, resolvers]) => items(resolvers).map((each) => `${suffix.padEnd(30)} -> ${address(each)}`)), 'none')
    if (flags.values['all'] === true) part('Fallback resolvers', items(config['FallbackResolvers']).map(address), 'none')
    part('Search domains', items(config['Domains']).map(String), 'none')
    if (flags.values['all'] !== true) return 0
    part('Name servers by address', items(config['Nameservers']).map(String), 'none')
    part('Certificate domains', items(config['CertDomains']).map(String), 'none')
    part('Records', items(config['ExtraRecords']).map(object).map((each) => `${String(each['Name']).padEnd(40)} -> ${String(each['Value'])}`), 'none')
    part('Suffixes that an exit node does not forward', items(config['ExitNodeFilteredSet']).map(String), 'none')
    return 0
  },
}

function asJson(config: Json): Json {
  const resolver = (each: unknown): Json => ({ Addr: address(each) })
  const some = (name: string, list: readonly unknown[]): Json => (list.length === 0 ? {} : { [name]: list })
  return {
    ...some('Resolvers', items(config['Resolvers']).map(resolver)),
    SplitDNSRoutes: Object.fromEntries(Object.entries(object(config['Routes'])).map(([suffix, list]) => [suffix, items(list).map(resolver)])),
    ...some('FallbackResolvers', items(config['FallbackResolvers']).map(resolver)),
    ...some('SearchDomains', items(config['Domains'])),
    ...some('Nameservers', items(config['Nameservers'])),
    ...some('CertDomains', items(config['CertDomains'])),
    ...some('ExtraRecords', items(config['ExtraRecords'])),
    ...some('ExitNodeFilteredSet', items(config['ExitNodeFilteredSet'])),
  }
}

const RCODES: readonly string[] = ['RCodeSuccess', 'RCodeFormatError', 'RCodeServerFailure', 'RCodeNameError', 'RCodeNotImplemented', 'RCodeRefused']

const query: Command = {
  usage: 'meshwright dns query [--json] NAME [TYPE]',
  summary: 'Ask the resolver of the mesh',
  takesWords: true,
  flags: { json: { type: 'bool', help: 'print as JSON' } },
  async run(daemon, flags, output) {
    const [name, type = 'A', ...more] = flags.args
    if (name === undefined) throw new CommandError('missing required argument: name')
    if (more.length > 0) throw new CommandError(`unexpected extra arguments: ${more.join(' ')}`)
    const found = await daemon.call('GET', `dns-query?name=${encodeURIComponent(name)}&type=${encodeURIComponent(type.toUpperCase())}`)
    const message = decodeDns(Buffer.from(String(found['Bytes'] ?? ''), 'base64'))
    if (message === undefined) throw new CommandError('failed to parse DNS response')
    const answers = message.answers ?? []
    const code = RCODES[message.rcode] ?? `RCode${message.rcode}`
    const resolvers = items(found['Resolvers']).map(address)
    if (flags.values['json'] === true) {
      const told = message.rcode === 0 ? { Answers: answers.map((each) => ({ Name: dotted(each.name), TTL: each.ttl, Type: typeOf(each), Body: bodyOf(each) })) } : {}
      output.out(`${JSON.stringify({ Name: name, QueryType: type.toUpperCase(), ...(resolvers.length === 0 ? {} : { Resolvers: resolvers.map((Addr) => ({ Addr })) }), ResponseCode: code, ...told }, null, 2)}\n`)
      return 0
    }
    output.out(`${name} (${type.toUpperCase()}): ${code}\n`)
    if (resolvers.length > 0) output.out(`Resolvers: ${resolvers.join(', ')}\n`)
    for (const each of answers) output.out(`${dotted(each.name)}  ${each.ttl}  ${typeOf(each)}  ${bodyOf(each)}\n`)
    if (answers.length === 0) output.out('No answers were returned.\n')
    return 0
  },
}

function dotted(name: string): string {
  return name.endsWith('.') ? name : `${name}.`
}

function typeOf({ data }: DnsRecord): string {
  return data.type === 'other' ? `Type${data.code}` : `Type${data.type}`
}

function bodyOf({ data }: DnsRecord): string {
  if ('address' in data) return formatIp(data.address)
  if (data.type === 'SRV') return `${data.priority} ${data.weight} ${data.port} ${dotted(data.target)}`
  if ('target' in data) return dotted(data.target)
  if (data.type === 'TXT') return data.texts.map((text) => JSON.stringify(Buffer.from(text).toString('utf8'))).join(' ')
  return data.type === 'SOA' ? `${dotted(data.primary)} ${dotted(data.mailbox)} ${data.serial}` : Buffer.from(data.bytes).toString('hex')
}

/** `dns`: how names of the mesh are answered. */
export const dns: Command = {
  usage: 'meshwright dns <status|query>',
  summary: 'Show and ask the names of the mesh',
  flags: {},
  subcommands: { status, query },
  run: needsSubcommand('dns', ['status', 'query']),
}
