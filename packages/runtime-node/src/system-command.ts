import { spawn } from 'node:child_process'

const COMMAND_MS = 10_000

/** Runs a program of the system to its end, with `input` on its standard input. @throws Error (the promise rejects) that says what it said */
export function runSystem(program: string, words: readonly string[], input: string = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const shown = `"${[program, ...words].join(' ')}"`
    const child = spawn(program, words, { stdio: ['pipe', 'pipe', 'pipe'], timeout: COMMAND_MS })
    let out = ''
    let said = ''
    child.stdout.on('data', (bytes: Buffer) => (out += bytes.toString('utf8')))
    child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString('utf8')))
    child.stdin.on('error', () => undefined) // a program that ends without reading tells by its status
    child.once('error', (error: NodeJS.ErrnoException) => reject(new Error(error.code === 'ENOENT' ? `${shown}: the program "${program}" is missing` : `${shown}: ${error.message}`, { cause: error })))
    child.once('close', (status) => (status === 0 ? resolve(out) : reject(new Error(`${shown}: ${said.trim() || `status ${String(status)}`}`))))
    child.stdin.end(input)
  })
}
