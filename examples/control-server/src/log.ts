/** Writes what happens to standard error: one line each, text or JSON. */
export interface Log {
  debug(message: string, facts?: Readonly<Record<string, unknown>>): void
  info(message: string, facts?: Readonly<Record<string, unknown>>): void
  warn(message: string, facts?: Readonly<Record<string, unknown>>): void
  error(message: string, facts?: Readonly<Record<string, unknown>>): void
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error']

/** @param level the least that is written; @param format `text` or `json` */
export function makeLog(level: string, format: string): Log {
  const least = LEVELS.indexOf(level)
  const write = (kind: string, message: string, facts: Readonly<Record<string, unknown>> = {}): void => {
    if (LEVELS.indexOf(kind) < least) return
    const time = new Date().toISOString()
    if (format === 'json') return void process.stderr.write(`${JSON.stringify({ time, level: kind, message, ...facts })}\n`)
    const tail = Object.entries(facts).map(([name, value]) => ` ${name}=${typeof value === 'string' && /\s|^$/.test(value) ? JSON.stringify(value) : String(value)}`)
    process.stderr.write(`${time} ${kind.toUpperCase().padEnd(5)} ${message}${tail.join('')}\n`)
  }
  return {
    debug: (message, facts) => write('debug', message, facts),
    info: (message, facts) => write('info', message, facts),
    warn: (message, facts) => write('warn', message, facts),
    error: (message, facts) => write('error', message, facts),
  }
}
