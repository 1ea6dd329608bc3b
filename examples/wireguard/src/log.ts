/** How much is said; names as wireguard-go has them in LOG_LEVEL. */
export type LogLevel = 'silent' | 'error' | 'verbose'

/** Reads LOG_LEVEL: `verbose` or `debug`, `error`, `silent`; anything else is `error`, as in wireguard-go. */
export function logLevelFrom(text: string | undefined): LogLevel {
  if (text === 'verbose' || text === 'debug') return 'verbose'
  return text === 'silent' ? 'silent' : 'error'
}

/** Writes one line to standard output, in the form of wireguard-go. */
export type Log = (level: 'error' | 'verbose', line: string) => void

/** A log for one interface. */
export function createLog(most: LogLevel, name: string): Log {
  return (level, line) => {
    if (most === 'silent' || (most === 'error' && level === 'verbose')) return
    const at = new Date().toISOString().replace('T', ' ').replaceAll('-', '/').slice(0, 19)
    process.stdout.write(`${level === 'error' ? 'ERROR' : 'DEBUG'}: (${name}) ${at} ${line}\n`)
  }
}
