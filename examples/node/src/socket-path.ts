import os from 'node:os'
import path from 'node:path'

/** Where daemon and command line meet when nothing else is said. */
export function defaultSocket(): string {
  const given = process.env['MESHWRIGHT_SOCKET'] ?? ''
  if (given !== '') return given
  if (process.getuid?.() === 0) return '/var/run/meshwright/meshwrightd.sock'
  return path.join(process.env['XDG_RUNTIME_DIR'] ?? os.tmpdir(), 'meshwright', 'meshwrightd.sock')
}
