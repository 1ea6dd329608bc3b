import { createHash, X509Certificate } from 'node:crypto'
import http from 'node:http'
import https from 'node:https'
import net, { isIP, type Socket } from 'node:net'
import { DerpServer, formatDerpMetrics } from '@meshwright/derp'
import {
  attachDerpServer, type DerpService, type Gate, metacertPem, nodeCryptoProvider, relayGate, startStunService, type StunService, suspendAwareClock, systemRandom, verifyByUrl,
} from '@meshwright/runtime-node/relay'
import { Entrance } from './entrance.ts'
import { loadCertificate, loadMeshKey, loadPrivateKey, read } from './files.ts'
import { MeshLinks } from './mesh-links.ts'
import { type RelayOptions, UsageError } from './options.ts'

/** Requests are short: who takes longer, or says nothing, only holds a place. Looked for often, so that thousands do not go in one turn. Upgraded connections are not meant. */
const PATIENCE: http.ServerOptions = { headersTimeout: 10_000, requestTimeout: 20_000, connectionsCheckingInterval: 250 }
/** Requests of one connection, which ends with the last of them: who asks without end, before any answer, would hold the thread for seconds. */
const MAX_REQUESTS = 100
/** Metacerts are valid for 30 days. */
const METACERT_RENEWAL_MS = 86_400_000

/** A relay that runs. */
export interface Relay {
  readonly port: number
  /** The relay as a DERP map names it. */
  readonly node: Readonly<Record<string, string | number>>
  close(): Promise<void>
}

/** Starts the relay: HTTP or HTTPS with upgrades to DERP, and STUN beside it. */
export async function startRelay(options: RelayOptions, log: (line: string) => void): Promise<Relay> {
  const privateKey = loadPrivateKey(options.keyFile)
  const { verifyUrl, meshKeyFile, rateBytes } = options
  const meshKey = meshKeyFile === undefined ? undefined : loadMeshKey(meshKeyFile)
  const server = new DerpServer({
    privateKey,
    random: systemRandom,
    provider: nodeCryptoProvider,
    admission: verifyUrl !== undefined,
    ...(meshKey !== undefined && { meshKey }),
    ...(rateBytes !== undefined && { receiveLimit: { bytesPerSecond: rateBytes, burstBytes: rateBytes } }),
  })
  const certificate = options.plainHttp ? undefined : loadCertificate(options)
  // The metacert behind the chain lets clients skip a round trip.
  const secrets = (): https.ServerOptions => ({ cert: (certificate?.cert ?? '') + metacertPem(server.publicKey), key: certificate?.key ?? '', minVersion: 'TLSv1.2', ...PATIENCE })
  const web = certificate === undefined ? http.createServer(PATIENCE) : createTlsServer(secrets())
  web.maxRequestsPerSocket = MAX_REQUESTS
  web.on('dropRequest', (_request: http.IncomingMessage, socket: Socket) => socket.destroy())
  const gate = relayGate()
  const entrance = new Entrance(web, gate, (request, response) => answer(service, () => metricsOf(server, stun, entrance, gate), request, response))
  const clock = suspendAwareClock()
  const { meshWith, meshCaFile } = options
  const links = meshKey && new MeshLinks({ targets: meshWith, privateKey, meshKey, provider: nodeCryptoProvider, clock, log, ...(meshCaFile !== undefined && { ca: read(meshCaFile) }) }, () => service)
  const service: DerpService = attachDerpServer(undefined, server, {
    clock,
    gate,
    forward: (output) => links?.forward(output),
    ...(verifyUrl !== undefined && { verify: verifyByUrl(verifyUrl, options.failOpen) }),
    ...(options.verbose && { log }),
  })
  let stun: StunService | undefined
  web.on('upgrade', (request: http.IncomingMessage, socket: Socket, head: Buffer) => {
    socket.on('error', () => socket.destroy())
    // The relay bounds those that it has not let in itself; others stay newcomers until they are gone.
    if (service.handleUpgrade(request, socket, head)) entrance.takenOver(request)
    else socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
  })
  const renewal = setInterval(() => (web instanceof https.Server ? web.setSecureContext(secrets()) : undefined), METACERT_RENEWAL_MS).unref()
  const close = async (): Promise<void> => {
    clearInterval(renewal)
    links?.close()
    service.close()
    await Promise.all([stun?.close(), entrance.close()])
  }
  try {
    await listen(entrance.server, options)
    if (options.stunPort !== undefined) stun = await startStunService({ port: options.stunPort, ...(options.host !== undefined && { address: options.host }) })
  } catch (error) {
    await close()
    throw error
  }
  links?.start()
  const address = entrance.server.address()
  const port = typeof address === 'object' && address !== null ? address.port : options.port
  const pin = certificate === undefined || !options.selfSigned ? undefined : `sha256-raw:${createHash('sha256').update(new X509Certificate(certificate.cert).raw).digest('hex')}`
  const family = isIP(options.hostName)
  const node = {
    Name: '900a',
    RegionID: 900,
    HostName: options.hostName,
    ...(pin !== undefined && { CertName: pin }),
    ...(family === 4 && { IPv4: options.hostName, IPv6: 'none' }),
    ...(family === 6 && { IPv4: 'none', IPv6: options.hostName }),
    STUNPort: stun?.portIpv4 ?? stun?.portIpv6 ?? -1,
    DERPPort: port,
  }
  return { port, node, close }
}

function createTlsServer(options: https.ServerOptions): https.Server {
  try {
    return https.createServer(options)
  } catch (error) {
    throw new UsageError(`the certificate or its key cannot be used: ${error instanceof Error ? error.message : String(error)}`)
  }
}

function listen(server: net.Server, options: RelayOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const where = `${options.host ?? 'all addresses'}, TCP port ${options.port}`
      if (error.code === 'EADDRINUSE') reject(new UsageError(`${where}: taken by another program; choose another one with --addr`))
      else if (error.code === 'EACCES') reject(new UsageError(`${where}: not allowed; choose a port above 1023 with --addr, or run with more rights`))
      else reject(new UsageError(`${where}: ${error.message}`))
    })
    server.listen({ port: options.port, ...(options.host !== undefined && { host: options.host }) }, resolve)
  })
}

function answer(service: DerpService, metrics: () => string, request: http.IncomingMessage, response: http.ServerResponse): void {
  if (service.handleRequest(request, response)) return
  const path = request.url?.split('?', 1)[0]
  if (path === '/metrics' && isLoopback(request.socket.remoteAddress)) {
    response.writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4' }).end(metrics())
  } else if (path === '/robots.txt') {
    response.writeHead(200, { 'Content-Type': 'text/plain' }).end('User-agent: *\nDisallow: /\n')
  } else if (path === '/') {
    response.writeHead(200, { 'Content-Type': 'text/plain' }).end('This is a relay for mesh networks.\n')
  } else {
    response.writeHead(404).end()
  }
}

function metricsOf(server: DerpServer, stun: StunService | undefined, entrance: Entrance, gate: Gate): string {
  const { answered, ignored, limited } = stun?.stats() ?? { answered: 0, ignored: 0, limited: 0 }
  const { newcomers, handshakes, evicted, overdue } = entrance.figures
  const lines = [
    '# TYPE stun_requests counter',
    `stun_requests{disposition="success"} ${answered}`,
    `stun_requests{disposition="not_stun"} ${ignored}`,
    `stun_requests{disposition="too_many"} ${limited}`,
    '# TYPE meshwright_newcomers gauge',
    `meshwright_newcomers ${newcomers}`,
    '# TYPE meshwright_tls_handshakes gauge',
    `meshwright_tls_handshakes ${handshakes}`,
    '# TYPE meshwright_newcomers_evicted_total counter',
    `meshwright_newcomers_evicted_total ${evicted}`,
    '# TYPE meshwright_newcomers_overdue_total counter',
    `meshwright_newcomers_overdue_total ${overdue}`,
    '# TYPE meshwright_gate_waiting gauge',
    `meshwright_gate_waiting ${gate.size}`,
  ]
  return `${formatDerpMetrics(server.stats())}${lines.join('\n')}\n`
}

function isLoopback(address: string | undefined): boolean {
  return address !== undefined && (address === '::1' || /^(?:::ffff:)?127\./.test(address))
}
