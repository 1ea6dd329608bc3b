import v8 from 'node:v8'
import vm from 'node:vm'

/** Collects all garbage now, for tests of what is let go of. */
export function collectGarbage(): void {
  v8.setFlagsFromString('--expose-gc')
  const collect: unknown = vm.runInNewContext('gc')
  if (typeof collect !== 'function') throw new Error('garbage cannot be collected at will')
  collect()
}
