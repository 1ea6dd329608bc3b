import { lookup } from 'node:dns/promises'
import os from 'node:os'
import { decodeDERPMap, relayMapFromDERPMap } from '@meshwright/control-protocol'
import type { RelayMap } from '@meshwright/core'
import { formatEndpoint, parseIp } from '@meshwright/ip'
import { Netcheck, type NetcheckInput, type NetcheckReport } from '@meshwright/nat-traversal'
import { drive, openUdp, suspendAwareClock, systemRandom, type UdpOptions } from '@meshwright/runtime-node'
import { CommandError } from './client.ts'
import { type Command, numberFlag, textFlag } from './command.ts'

const LIMIT_MS = 15_000

/** `netcheck`: looks at the network from here, by the relays that the mesh has. */
export const netcheck: Command = {
  usage: 'meshwright netcheck [flags]',
  summary: 'Show what this network lets through, and the nearest relay',
  flags: {
    format: { type: 'string', help: '"json" or "json-line"; empty for people' },
    every: { type: 'duration', help: 'look again and again, so far apart; 0 looks once', default: '0s' },
    'bind-port': { type: 'int', help: 'UDP port to look from; 0 for any', default: '0' },
    'bind-address': { type: 'string', help: 'address of this computer to look from; empty for all' },
    verbose: { type: 'bool', help: 'tell more' },
  },
  async run(daemon, flags, output) {
    const format = textFlag(flags, 'format') ?? ''
    if (!['', 'json', 'json-line'].includes(format)) throw new CommandError(`unknown output format "${format}"`)
    const from = textFlag(flags, 'bind-address') ?? ''
    const family = from === '' ? undefined : parseIp(from)?.family
    if (from !== '' && family === undefined) throw new CommandError(`invalid value "${from}" for --bind-address: write an address of this computer`)
    const bind = family === 4 ? ({ ipv4: from, ipv6: false } as const) : family === 6 ? ({ ipv4: false, ipv6: from } as const) : {}
    const decoded = decodeDERPMap(await daemon.call('GET', 'derpmap'))
    const map = relayMapFromDERPMap(decoded.ok ? decoded.value : {})
    if (map.regions.size === 0) throw new CommandError('no relay map: log in first, with "meshwright up"')
    if (format !== '') output.err('# Warning: this JSON format is not yet considered a stable interface\n')
    for (const everyMs = numberFlag(flags, 'every', 0); ; await new Promise((resolve) => setTimeout(resolve, everyMs))) {
      const report = await look(map, { port: numberFlag(flags, 'bind-port', 0), ...bind })
      output.out(format === '' ? tell(report, map, flags.values['verbose'] === true) : `${JSON.stringify(asJson(report), null, format === 'json' ? '\t' : undefined)}\n`)
      if (everyMs <= 0) return 0
    }
  },
}

async function look(map: RelayMap, bind: Pick<UdpOptions, 'port' | 'ipv4' | 'ipv6'>): Promise<NetcheckReport> {
  const clock = suspendAwareClock()
  const machine = new Netcheck({ random: systemRandom })
  let feed: (input: NetcheckInput) => void = () => undefined
  const udp = await openUdp({ ...bind, onDatagram: (bytes, from) => feed({ type: 'datagram', bytes, from }) })
  try {
    return await new Promise<NetcheckReport>((resolve, reject) => {
      const timer = setTimeout(() => reject(new CommandError('the network could not be looked at in time')), LIMIT_MS)
      const driver = drive(machine, clock, (output) => {
        if (output.type === 'transmit') udp.send(output.to, output.bytes)
        else if (output.type === 'measureHttps') queueMicrotask(() => feed({ type: 'httpsMeasured', region: output.region.id, latencyMs: undefined }))
        else if (output.type === 'resolve') {
          lookup(output.hostName, { all: true }).then(
            (found) => feed({ type: 'resolved', hostName: output.hostName, ips: found.flatMap(({ address }) => parseIp(address) ?? []) }),
            () => feed({ type: 'resolved', hostName: output.hostName, ips: [] }),
          )
        } else {
          clearTimeout(timer)
          driver.stop()
          resolve(output.report)
        }
      })
      feed = driver.feed
      machine.setRelayMap(map)
      driver.act((now) => machine.start(now, true))
    })
  } finally {
    feed = () => undefined
    await udp.close()
  }
}

const hasIpv6 = (): boolean => Object.values(os.networkInterfaces()).some((each) => each?.some(({ family }) => family === 'IPv6') === true)

interface Latency {
  readonly region: number
  readonly ms: number
}

function latencies(report: NetcheckReport): readonly Latency[] {
  return [...report.regions]
    .flatMap(([region, { ipv4Ms, ipv6Ms }]) => (ipv4Ms === undefined && ipv6Ms === undefined ? [] : [{ region, ms: Math.min(ipv4Ms ?? Infinity, ipv6Ms ?? Infinity) }]))
    .sort((a, b) => a.ms - b.ms)
}

function tell(report: NetcheckReport, map: RelayMap, verbose: boolean): string {
  const of = (family: 4 | 6): string | undefined => report.mapped.filter(({ ip }) => ip.family === family).map(formatEndpoint)[0]
  const known = latencies(report)
  const nearest = known[0] && map.regions.get(known[0].region)
  const varies = report.mappingVariesByDestination
  const lines = [
    '',
    'Report:',
    `\t* Time: ${new Date().toISOString().replace('T', ' ')}`,
    `\t* UDP: ${report.udp}`,
    `\t* IPv4: ${of(4) === undefined ? '(no addr found)' : `yes, ${of(4)}`}`,
    `\t* IPv6: ${of(6) !== undefined ? `yes, ${of(6)}` : report.ipv6 ? '(no addr found)' : hasIpv6() ? 'no, but OS has support' : 'no, unavailable in OS'}`,
    `\t* MappingVariesByDestIP: ${varies === undefined ? '' : varies}`,
    '\t* PortMapping: ',
    `\t* Nearest DERP: ${nearest === undefined ? 'unknown (no response to latency probes)' : nearest.name}`,
  ]
  if (known.length > 0) {
    const silent = [...map.regions.keys()].filter((id) => !known.some(({ region }) => region === id)).sort((a, b) => a - b)
    lines.push('\t* DERP latency:')
    for (const { region, ms } of [...known, ...silent.map((id) => ({ region: id, ms: undefined }))]) {
      const named = map.regions.get(region)
      lines.push(`\t\t- ${(named?.code ?? '').padStart(3)}: ${(ms === undefined ? '' : `${Math.round(ms * 10) / 10}ms`).padEnd(7)} (${verbose ? `derp${region}, ` : ''}${named?.name ?? ''})`)
    }
  }
  return `${lines.join('\n')}\n`
}

function asJson(report: NetcheckReport): Readonly<Record<string, unknown>> {
  const nanos = (pick: (of: { readonly ipv4Ms?: number | undefined; readonly ipv6Ms?: number | undefined }) => number | undefined): Readonly<Record<string, number>> =>
    Object.fromEntries([...report.regions].flatMap(([id, each]) => { const ms = pick(each); return ms === undefined ? [] : [[String(id), Math.round(ms * 1e6)]] }))
  const of = (family: 4 | 6): string => report.mapped.filter(({ ip }) => ip.family === family).map(formatEndpoint)[0] ?? ''
  return {
    Now: new Date().toISOString(), UDP: report.udp, IPv6: report.ipv6, IPv4: report.ipv4, OSHasIPv6: hasIpv6(), MappingVariesByDestIP: report.mappingVariesByDestination ?? null,
    PreferredDERP: latencies(report)[0]?.region ?? 0,
    RegionLatency: Object.fromEntries(latencies(report).map(({ region, ms }) => [String(region), Math.round(ms * 1e6)])),
    RegionV4Latency: nanos(({ ipv4Ms }) => ipv4Ms), RegionV6Latency: nanos(({ ipv6Ms }) => ipv6Ms), GlobalV4: of(4), GlobalV6: of(6),
  }
}
