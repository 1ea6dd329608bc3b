import { defineConfig } from 'tsup'

export default defineConfig({
  entry: { 'meshwright-wg': 'src/meshwright-wg.ts' },
  format: ['esm'],
  target: 'node20',
  platform: 'node',
  banner: { js: '#!/usr/bin/env node' },
  clean: true,
  tsconfig: 'tsconfig.json',
  external: ['koffi'],
})
