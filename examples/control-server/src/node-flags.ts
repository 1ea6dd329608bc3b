/**
 * What `serve` is best started with, as the README does it: the thread that answers collects its garbage itself, and young objects, which
 * most of what strangers cause are, in small portions. On one or two processors V8's helpers for that find no free one while the server
 * has work, and the thread stands still until they have had a turn (benchmarks/load.md, liars). Node must be started with them: V8 takes
 * the first one no later.
 */
export const NODE_FLAGS: readonly string[] = ['--single-threaded-gc', '--max-semi-space-size=4']
