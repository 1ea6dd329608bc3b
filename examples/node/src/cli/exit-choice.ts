import { parseIp } from '@meshwright/ip'
import { CommandError, type DaemonClient } from './client.ts'
import { findPeer, object } from './status.ts'

/**
 * The node that `--exit-node` names, by its address. While the node runs, somebody who is there and offers to be one, as with the usual command
 * line; while it does not, only an address can be taken, and it is taken as it is.
 * @throws CommandError that says what is wrong with the name
 */
export async function chosenExitNode(daemon: DaemonClient, wanted: string): Promise<string> {
  if (wanted === '') return ''
  if (wanted.startsWith('auto:')) throw new CommandError(`--exit-node=${wanted} is not offered: name a node; "meshwright exit-node list" shows who offers to be one`)
  const found = await daemon.call('GET', 'status')
  if (found['BackendState'] !== 'Running') {
    if (parseIp(wanted) === undefined) throw new CommandError(`invalid value "${wanted}" for --exit-node: while the node does not run, give an IP address`)
    return wanted
  }
  const { ip, self, name } = findPeer(found, wanted)
  if (self) throw new CommandError(`cannot use ${wanted} as exit node: it is this node`)
  const offers = Object.values(object(found['Peer'])).some((peer) => {
    const { TailscaleIPs: addresses, ExitNodeOption: option } = object(peer)
    return option === true && Array.isArray(addresses) && addresses.includes(ip)
  })
  if (!offers) throw new CommandError(`node "${name}" does not offer to be an exit node; "meshwright exit-node list" shows who does`)
  return ip
}
