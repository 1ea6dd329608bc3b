/**
 * A program for `node --import`: while a daemon runs with it, the word `end` or `hang` in the file that MESHWRIGHT_TEST_FAULTS names befalls the
 * thread that carries its packets. It ends without a word, as by a fault in a library, or goes on for ever without doing anything.
 */
export const WORKER_FAULTS = `
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import threads from 'node:worker_threads'
if (threads.isMainThread) {
  const Real = threads.Worker
  let last
  threads.Worker = class extends Real {
    constructor(url, options) {
      super(url, options)
      if (options?.name?.startsWith('meshwright ')) last = this
    }
  }
  syncBuiltinESMExports()
  const file = process.env.MESHWRIGHT_TEST_FAULTS
  setInterval(() => {
    if (!fs.existsSync(file)) return
    const fault = fs.readFileSync(file, 'utf8')
    if (fault === '') return
    fs.unlinkSync(file)
    if (fault === 'end') last?.terminate()
    else last?.postMessage(fault)
  }, 100).unref()
} else if (threads.workerData?.meshwrightMeshLane === 1 || threads.workerData?.meshwrightDataPlane === 1) {
  threads.parentPort.on('message', () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0))
  threads.parentPort.unref()
}
`
