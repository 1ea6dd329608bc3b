import { runSystem } from './system-command.ts'

const TABLE = 'meshwright'
/** Marks what came out of the mesh and goes on: tailscaled's bits for the same (tailscale/tailscale:util/linuxfw). */
const FORWARDED_MARK = 0x40000
const MARK_MASK = 0xff0000

/**
 * Gives packets from the mesh into other networks this computer's address, so that answers find back: a table of nftables, made as a whole.
 * Masquerading is for forwarded packets alone.
 * @throws Error (the promise rejects) without the program `nft`
 */
export async function setMasquerade(device: string): Promise<void> {
  const mark = (value: number): string => `0x${value.toString(16)}`
  const rules = [
    `table inet ${TABLE} {`,
    '  chain forward {',
    '    type filter hook forward priority filter; policy accept;',
    `    iifname "${device}" meta mark set meta mark & ${mark(~MARK_MASK >>> 0)} | ${mark(FORWARDED_MARK)}`,
    '  }',
    '  chain postrouting {',
    '    type nat hook postrouting priority srcnat; policy accept;',
    `    oifname != "${device}" meta mark & ${mark(MARK_MASK)} == ${mark(FORWARDED_MARK)} masquerade`,
    '  }',
    '}',
  ]
  // Declared, then deleted, then made: one transaction that works whether it was there or not.
  await runSystem('nft', ['-f', '-'], `table inet ${TABLE}\ndelete table inet ${TABLE}\n${rules.join('\n')}\n`)
}

/** Takes the table away; its absence is as good. */
export async function removeMasquerade(): Promise<void> {
  await runSystem('nft', ['delete', 'table', 'inet', TABLE]).catch(() => undefined)
}
