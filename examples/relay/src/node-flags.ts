/**
 * What the relay is best started with, as the README does it: the thread that carries packets collects its garbage itself, in portions so small
 * that no packet waits long for one. Node must be started with them: V8 takes the first one no later.
 */
export const NODE_FLAGS: readonly string[] = ['--single-threaded-gc', '--max-semi-space-size=1']
