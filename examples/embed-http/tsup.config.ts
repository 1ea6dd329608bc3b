import { defineConfig } from 'tsup'

export default defineConfig({
  entry: { main: 'src/main.ts', 'socks-gateway': 'src/socks-gateway.ts', 'tcp-forwarder': 'src/tcp-forwarder.ts', 'ci-job': 'src/ci-job.ts', chat: 'src/chat.ts' },
  format: ['esm'],
  target: 'node20',
  platform: 'node',
  banner: { js: '#!/usr/bin/env node' },
  clean: true,
  tsconfig: 'tsconfig.json',
})
