export { drain, runTimers, VirtualClock } from './virtual-clock.ts'
export { SeededRandom } from './seeded-random.ts'
export { MachineLawError, machineLaws, type MachineLawsSubject } from './machine-laws.ts'
export * from './network/index.ts'
