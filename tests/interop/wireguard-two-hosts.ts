import { test } from 'vitest'
import { WireGuardHost } from './wireguard-host.ts'

const REQUIRED = process.env['REQUIRE_INTEROP'] === '1'

/** A flow between two hosts of its own on one line, whose capture is searched at the end; skipped for the reason given, failed where REQUIRE_INTEROP=1. */
export function twoHostFlow(title: string, skip: string | undefined, run: (host: WireGuardHost, other: WireGuardHost) => Promise<void>): void {
  test.concurrent(title, async (context) => {
    if (skip !== undefined && !REQUIRED) return context.skip(skip)
    if (skip !== undefined) throw new Error(skip)
    const hosts = [await WireGuardHost.create(), await WireGuardHost.create()] as const
    const line = await WireGuardHost.line(...hosts)
    try {
      await run(...hosts)
      await line.finish()
    } finally {
      for (const host of hosts) await host.close()
      line.close()
    }
  })
}
