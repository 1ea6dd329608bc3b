import { type RunningNode, startMeshNode } from '@meshwright/runtime-node'

/** Something is missing in the environment: says what, and ends. */
export function usage(text: string): never {
  console.error(text)
  process.exit(2)
}

/** A node from the environment that these examples share: CONTROL_URL, AUTH_KEY, HOSTNAME_ON_MESH, ALLOW_LOOPBACK. It ends with Ctrl-C. */
export async function nodeFromEnvironment(name: string): Promise<RunningNode> {
  const { CONTROL_URL: controlUrl, AUTH_KEY: authKey, HOSTNAME_ON_MESH: hostname = name, ALLOW_LOOPBACK: allowLoopback } = process.env
  if (controlUrl === undefined || authKey === undefined) usage('set CONTROL_URL and AUTH_KEY: the address of the control server, and a key that it made')
  const node = await startMeshNode({ controlUrl, authKey, hostname, ephemeral: true, allowLoopback: allowLoopback === '1' })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void node.close().then(() => process.exit(0)))
  await node.ready(AbortSignal.timeout(30_000))
  return node
}
