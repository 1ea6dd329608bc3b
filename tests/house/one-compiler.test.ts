import path from 'node:path'
import { expect, test } from 'vitest'
import { ROOT, sourceFiles } from './repository.ts'

// What the control server tells a node comes from the policy compiler and from nothing else.
const SERVER = ['packages/control-server/src', 'examples/control-server/src']
const sources = SERVER.flatMap((folder) => sourceFiles(path.join(ROOT, folder), folder)).filter(({ path: file }) => !/\.test\.ts$/.test(file))

test('one file of the control server compiles policies, by @meshwright/policy', () => {
  expect(sources.length).toBeGreaterThan(10)
  const importers = sources.filter(({ text }) => /from '@meshwright\/policy(?:\/[a-z]+)?'/.test(text)).map(({ path: file }) => file)
  expect(importers).toEqual(['packages/control-server/src/tailnet-policy.ts'])
})

// A rule without sources lets nobody in, and one that is taken apart is not written.
const WRITES_OR_READS = /\bSrcIPs:(?! \[\]| _,)|\bDstPorts:|\.acls\b|\.grants\b|parsePolicy|compilePolicy|parseHuJson/

test('no other file of it writes a rule or reads a policy', () => {
  for (const { path: file, text } of sources) {
    if (file.endsWith('tailnet-policy.ts')) continue
    expect([file, WRITES_OR_READS.exec(text)?.[0]]).toEqual([file, undefined])
  }
})
