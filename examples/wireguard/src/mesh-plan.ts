import type { NodePrivateKey } from '@meshwright/crypto'
import { formatIp, type Ip } from '@meshwright/ip'
import { formatPublicKey, formatSecretKey } from '@meshwright/wireguard/text'
import type { MeshDescription, MeshHost, MeshPort } from './mesh-file.ts'

/** The secrets of a mesh, kept from run to run. */
export interface MeshSecrets {
  keyOf(host: string): NodePrivateKey
  /** The key that a host changes to, while a rotation is under way. */
  nextKeyOf(host: string): NodePrivateKey | undefined
  /** 32 bytes that two hosts share. */
  pskOf(a: string, b: string): Uint8Array
}

/** Every host's WireGuard file (it holds secrets: mode 0600). Hosts are peers when a rule lets one of them reach the other. */
export function planConfig(mesh: MeshDescription, host: MeshHost, secrets: MeshSecrets): string {
  const lines = [
    `# ${host.name}: written by "meshwright-wg mesh"; change the description, not this file.`,
    '[Interface]',
    `PrivateKey = ${formatSecretKey(secrets.keyOf(host.name).secretBytes)}`,
    `Address = ${host.addresses.map((ip) => `${formatIp(ip)}/${ip.family === 4 ? 32 : 128}`).join(', ')}`,
  ]
  if (host.listenPort !== undefined) lines.push(`ListenPort = ${host.listenPort}`)
  // Before the interface is up, so that no packet comes through before the rules stand.
  lines.push(`PreUp = nft -f /etc/wireguard/%i.nft`, `PostDown = nft delete table inet ${tableOf(mesh)}`)
  for (const peer of mesh.hosts.filter((each) => each !== host && arePeers(mesh, host.name, each.name))) {
    lines.push('', `# ${peer.name}`, '[Peer]', `PublicKey = ${formatPublicKey(secrets.keyOf(peer.name).publicKey())}`, `PresharedKey = ${formatSecretKey(secrets.pskOf(host.name, peer.name))}`)
    lines.push(`AllowedIPs = ${peer.addresses.map((ip) => `${formatIp(ip)}/${ip.family === 4 ? 32 : 128}`).join(', ')}`)
    if (peer.endpoint !== undefined) lines.push(`Endpoint = ${peer.endpoint}`)
    if (host.endpoint === undefined && peer.endpoint !== undefined && mesh.keepaliveSeconds > 0) lines.push(`PersistentKeepalive = ${mesh.keepaliveSeconds}`)
    const next = secrets.nextKeyOf(peer.name)
    if (next !== undefined) {
      // Known already, without addresses: a prefix has one owner, and it moves when the rotation is finished.
      lines.push('', `# ${peer.name}, its next key`, '[Peer]', `PublicKey = ${formatPublicKey(next.publicKey())}`, `PresharedKey = ${formatSecretKey(secrets.pskOf(host.name, peer.name))}`)
      if (peer.endpoint !== undefined) lines.push(`Endpoint = ${peer.endpoint}`)
    }
  }
  return `${lines.join('\n')}\n`
}

/** Every host's nftables rules for what comes out of the tunnel: replies, and what a rule allows. All else is dropped, forwarding included. */
export function planFirewall(mesh: MeshDescription, host: MeshHost): string {
  const table = tableOf(mesh)
  const accepted = mesh.rules
    .filter((rule) => rule.to.includes(host.name))
    .flatMap((rule) => rule.from.filter((name) => name !== host.name).flatMap((name) => acceptLines(mesh.hosts.find((each) => each.name === name), rule.ports)))
  return `# ${host.name}: written by "meshwright-wg mesh"; change the description, not this file.
table inet ${table} {}
delete table inet ${table}
table inet ${table} {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "${mesh.interfaceName}" jump from_mesh
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "${mesh.interfaceName}" drop
  }
  chain from_mesh {
    ct state established,related accept
${[...new Set(accepted)].map((line) => `    ${line}\n`).join('')}    drop
  }
}
`
}

/** Whether two hosts need to know each other. */
export function arePeers(mesh: MeshDescription, a: string, b: string): boolean {
  return mesh.rules.some((rule) => (rule.from.includes(a) && rule.to.includes(b)) || (rule.from.includes(b) && rule.to.includes(a)))
}

function acceptLines(from: MeshHost | undefined, ports: readonly MeshPort[]): string[] {
  return (from?.addresses ?? []).flatMap((ip) => ports.map((port) => `${ip.family === 4 ? 'ip' : 'ip6'} saddr ${formatIp(ip)} ${matchOf(ip, port)}accept`))
}

function matchOf(ip: Ip, { protocol, first, last }: MeshPort): string {
  if (protocol === 'any') return ''
  if (protocol === 'icmp') return ip.family === 4 ? 'meta l4proto icmp ' : 'meta l4proto ipv6-icmp '
  if (first === 0 && last === 65_535) return `meta l4proto ${protocol} `
  return `${protocol} dport ${first === last ? first : `${first}-${last}`} `
}

function tableOf(mesh: MeshDescription): string {
  return `meshwright_${mesh.interfaceName.replace(/[^a-zA-Z0-9_]/g, '_')}`
}
