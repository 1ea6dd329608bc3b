import type { Prefix } from '@meshwright/ip'
import { openMeshPlane } from './mesh-lane/open-plane.ts'
import type { MeshDaemonOptions } from './mesh-runtime.ts'
import { checkControlKnown, checkOptions, routesOf } from './node-parts.ts'
import { NodeRunner } from './node-runner.ts'
import { markedOutside, systemOutside } from './outside.ts'
import type { RunningNode } from './running-node.ts'
import { holdState } from './state-hold.ts'
import { NodeStore } from './stored-node.ts'
import { OUTSIDE_MARK } from './system-routes.ts'

/**
 * Starts a mesh node in this process: UDP socket, control connection, relays, TCP/IP stack. Needs no root. Resolves once it runs its
 * machine; `ready()` tells when it takes part.
 * @throws StateFileError, UdpError, MeshRuntimeError (the promise rejects)
 */
export async function startMeshNode(options: MeshDaemonOptions): Promise<RunningNode> {
  checkOptions(options)
  const routes = routesOf(options)
  options.signal?.throwIfAborted()
  const release = holdState(options.stateFile)
  try {
    const store = new NodeStore(options.stateFile, release)
    checkControlKnown(options, store.stored.controlUrl)
    return await startHeld(options, routes, store)
  } catch (error) {
    release()
    throw error
  }
}

async function startHeld(options: MeshDaemonOptions, routes: readonly Prefix[], store: NodeStore): Promise<RunningNode> {
  const outside = options.tun === undefined ? systemOutside : await markedOutside(OUTSIDE_MARK)
  let runner: NodeRunner | undefined
  const opened = await openMeshPlane(options, {
    onStirred: () => runner?.feed({ type: 'engineStirred' }),
    onService: (bytes) => runner?.feed({ type: 'packet', bytes }),
    onGone: (reason) => runner?.log('warn', reason),
    log: (level, line) => runner?.log(level, line),
  })
  try {
    options.signal?.throwIfAborted()
    runner = new NodeRunner(options, routes, store, outside, opened)
    await runner.open()
    options.signal?.throwIfAborted()
    return runner
  } catch (error) {
    await runner?.close()
    await opened.plane?.close()
    throw error
  }
}
