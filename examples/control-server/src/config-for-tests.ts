import { writeFileSync } from 'node:fs'
import path from 'node:path'

/**
 * For tests: a configuration whose files all stand in one folder, for a server on loopback.
 * @param more further lines; those of `policy` and `log` take the place of the usual ones @returns the file
 */
export function writeConfigForTests(folder: string, port: number, more: { readonly scheme?: 'http' | 'https'; readonly policy?: string; readonly log?: string; readonly lines?: string } = {}): string {
  const file = path.join(folder, 'config.yaml')
  writeFileSync(
    file,
    `server_url: ${more.scheme ?? 'http'}://127.0.0.1:${port}
listen_addr: 127.0.0.1:${port}
noise: {private_key_path: ${folder}/noise.key}
database: {type: sqlite, sqlite: {path: ${folder}/db.sqlite}}
unix_socket: ${folder}/control.sock
policy: ${more.policy ?? '{mode: database}'}
log: ${more.log ?? '{level: error}'}
dns: {base_domain: lab.test, override_local_dns: false}
${more.lines ?? ''}`,
  )
  return file
}
