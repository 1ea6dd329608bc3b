import { expect, test } from 'vitest'
import type { ControlFigures } from '../load/control.ts'
import { misses } from '../load/report.ts'

// Whoever reads the JSON alone is told on standard error why the command ended with status 1.
const good: ControlFigures = { server: 'ours', policy: 'allow-all', clients: 300, joinSeconds: 2, joinCpu: 3, settleSeconds: 3, endpointP50: 0.1, endpointP99: 0.2, addedP99: 0.2, addedBytes: 800, reconnectSeconds: 1, reconnectCpu: 1, peakRssMegabytes: 100 }

test('what ours misses is named with its figure and its must; what headscale does is nobody\'s miss', () => {
  expect(misses([good, { ...good, server: 'headscale', joinCpu: 70 }])).toEqual([])
  expect(misses([{ ...good, reconnectSeconds: 2.03, joinCpu: undefined }])).toEqual([
    '300 nodes, allow-all: join: server CPU until quiet is never and must be 8.00 s',
    '300 nodes, allow-all: reconnect of all, complete is 2.03 s and must be 2.00 s',
  ])
})
