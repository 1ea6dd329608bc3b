import { Disappointment } from './waiting.ts'

/** The detail of steps behind a failed one. */
export const NOT_TRIED = 'not tried, since a step before it failed'

/** How one step of the proof went. */
export interface StepResult {
  readonly name: string
  readonly ok: boolean
  readonly ms: number
  /** What was seen, or what went wrong. */
  readonly detail: string
}

/** A step: what is claimed, and the deed that shows it. It gives what was seen, or throws. */
export interface Step {
  readonly name: string
  run(): Promise<string>
}

/** Runs steps in order and tells each as it ends. After a failure the rest is not tried, and says so. */
export async function runSteps(steps: readonly Step[], limitMs: number, complaint: () => string | undefined, tell: (result: StepResult) => void): Promise<readonly StepResult[]> {
  const results: StepResult[] = []
  let failed = false
  for (const step of steps) {
    const result: StepResult = failed ? { name: step.name, ok: false, ms: 0, detail: NOT_TRIED } : await runStep(step, limitMs, complaint)
    failed ||= !result.ok
    results.push(result)
    tell(result)
  }
  return results
}

async function runStep(step: Step, limitMs: number, complaint: () => string | undefined): Promise<StepResult> {
  const begun = performance.now()
  const end = (ok: boolean, detail: string): StepResult => ({ name: step.name, ok, ms: Math.round(performance.now() - begun), detail })
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Disappointment(`not done within ${limitMs / 1000} s`)), limitMs)
  })
  try {
    const detail = await Promise.race([step.run(), limit])
    const problem = complaint()
    return problem === undefined ? end(true, detail) : end(false, problem)
  } catch (error) {
    const problem = complaint()
    const text = error instanceof Error ? error.message : String(error)
    return end(false, problem === undefined || text.startsWith(problem) ? text : `${text} (${problem})`)
  } finally {
    clearTimeout(timer)
  }
}

/** Writes steps for people. Colours where they are wanted. */
export class Printer {
  readonly #write: (text: string) => void
  readonly #colour: boolean
  readonly #columns: number

  constructor(stream: NodeJS.WriteStream) {
    this.#write = (text) => void stream.write(text)
    this.#colour = stream.isTTY === true && (process.env['NO_COLOR'] ?? '') === '' && process.env['TERM'] !== 'dumb'
    this.#columns = Math.max(60, Math.min(stream.isTTY === true ? (stream.columns ?? 100) : 120, 120))
  }

  title(text: string): void {
    this.#write(`${this.#paint('1', text)}\n\n`)
  }

  line(text: string): void {
    this.#write(`${text}\n`)
  }

  step(result: StepResult): void {
    const mark = result.ok ? this.#paint('32', '✓') : this.#paint('31', '✗')
    this.#write(`  ${mark} ${`${(result.ms / 1000).toFixed(2)} s`.padStart(8)}  ${this.#paint('1', result.name)}\n`)
    for (const line of this.#wrap(result.detail, this.#columns - 14)) this.#write(`              ${this.#paint(result.ok ? '2' : '31', line)}\n`)
  }

  #wrap(text: string, width: number): readonly string[] {
    const lines: string[] = []
    for (const paragraph of text.split('\n')) {
      let line = ''
      for (const word of paragraph.split(' ')) {
        if (line !== '' && line.length + 1 + word.length > width) {
          lines.push(line)
          line = word
        } else line = line === '' ? word : `${line} ${word}`
      }
      lines.push(line)
    }
    return lines
  }

  #paint(code: string, text: string): string {
    return this.#colour ? `\u001b[${code}m${text}\u001b[0m` : text
  }
}
