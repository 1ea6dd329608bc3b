import { realpathSync } from 'node:fs'
import path from 'node:path'
import { MeshRuntimeError } from './mesh-runtime.ts'

const held = new Set<string>()

/**
 * Holds a state file for one node of this process: two nodes of one state would be one node twice, and each would write over what the other
 * has stored. Between processes, whoever starts them sees to that, as `meshwrightd` does.
 * @returns gives the file up
 * @throws MeshRuntimeError when another node holds it
 */
export function holdState(stateFile: string | undefined): () => void {
  if (stateFile === undefined) return () => undefined
  const name = real(stateFile)
  if (held.has(name)) throw new MeshRuntimeError('RUNTIME_OPTION', `stateFile: ${stateFile} is that of another node in this process`, { remedy: 'Give each node a state file of its own, and wait for close() before a node is started again.' })
  held.add(name)
  let isMine = true
  return () => {
    if (isMine) held.delete(name)
    isMine = false // whoever holds it from now on is another
  }
}

// A file that is not there yet is where its folder is.
function real(file: string): string {
  for (const [there, rest] of [[file, ''], [path.dirname(file), path.basename(file)]] as const) {
    try {
      return path.join(realpathSync(there), rest)
    } catch {
      continue // not there: what can be said without it
    }
  }
  return path.resolve(file)
}
