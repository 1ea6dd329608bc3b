import type { SshCheckView } from '@meshwright/control-server'

/** What the login page shows of a device that waits. */
export interface WaitingDevice {
  readonly authId: string
  readonly hostname: string
  readonly os: string
  readonly nodeKey: string
  readonly rejected: boolean
}

/** No scripts, nothing from elsewhere, no frames. */
export const PAGE_HEADERS: Readonly<Record<string, string>> = {
  'Content-Type': 'text/html; charset=utf-8',
  'Content-Security-Policy': "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-store',
}

/** The page that a login URL opens. */
export function loginPage(device: WaitingDevice): string {
  if (device.rejected) return page('Request declined', '<p>An administrator declined this device. If that was a mistake, start the login again on the device.</p>')
  const command = `meshwright-control auth register --auth-id ${device.authId} --user USER`
  return page(
    'A device wants to join',
    `<dl><dt>Device</dt><dd>${theirs(device.hostname === '' ? 'unnamed' : device.hostname)}</dd><dt>System</dt><dd>${theirs(device.os === '' ? 'unknown' : device.os)}</dd><dt>Key</dt><dd><code>${escape(device.nodeKey.slice(0, 24))}…</code></dd></dl>
<p>If this is your device, run this on the control server, with the name of the owner in place of <code>USER</code>:</p>
<pre><code>${escape(command)}</code></pre>
<p class="quiet">The device joins as soon as the command is done; you may close this page. Not your device? Ignore it, or run <code>meshwright-control auth reject --auth-id …</code>.</p>`,
  )
}

/** The page of an SSH session that waits for approval. */
export function sshCheckPage(check: SshCheckView): string {
  if (check.state === 'rejected') return page('Session refused', '<p>An administrator refused this session. If that was a mistake, connect again.</p>')
  if (check.state === 'approved') return page('Session approved', '<p>This session was approved; it goes on where it was begun.</p>')
  const user = check.source.user === '' ? '' : ` of ${check.source.user}`
  return page(
    'An SSH session waits for approval',
    `<dl><dt>From</dt><dd>${escape(check.source.givenName + user)}</dd><dt>To</dt><dd>${escape(check.destination.givenName)}</dd><dt>As</dt><dd>${theirs(check.localUser)}</dd><dt>Asked</dt><dd>${escape(check.askedAt)}</dd></dl>
<p>An administrator who knows of this session runs on the control server:</p>
<pre><code>meshwright-control ssh approve --auth-id ${escape(check.authId)}</code></pre>
<p class="quiet">The session goes on as soon as the command is done. Nobody knows of it? Run <code>meshwright-control ssh reject --auth-id …</code>.</p>`,
  )
}

/** The page for a login URL that is over or was never given. */
export function unknownLoginPage(): string {
  return page('This link is no longer valid', '<p>The request was answered already, or it is too old. Start the login again on the device to get a new link.</p>')
}

/** The front page. */
export function frontPage(serverUrl: string): string {
  return page(
    'Control server',
    `<p>This is the control server of a private mesh network. To join a device:</p><pre><code>tailscale up --login-server ${escape(serverUrl)}</code></pre><p class="quiet">Devices join only with an auth key or after an administrator approved them.</p>`,
  )
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`)
}

/** What strangers wrote: characters that turn the direction of writing or cannot be seen are shown as what they are, and hide nothing. */
function theirs(text: string): string {
  return escape(text.replace(/[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`))
}

function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>${escape(title)} · Meshwright</title>
<style>
:root { color-scheme: light dark; --ink: #1c2430; --quiet: #5b6675; --paper: #f5f6f8; --card: #fff; --line: #dfe3e9; --accent: #2f6f5e }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --quiet: #9aa5b4; --paper: #14181e; --card: #1c222b; --line: #313a47; --accent: #6fc3aa } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 24px; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { width: 100%; max-width: 640px; background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 36px 40px }
.mark { color: var(--accent); font-weight: 650; letter-spacing: .02em; font-size: 14px }
h1 { font-size: 26px; line-height: 1.25; margin: 8px 0 20px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px; margin: 0 0 22px }
dt { color: var(--quiet) } dd { margin: 0; overflow-wrap: anywhere }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all }
code { font: 14px/1.5 ui-monospace, monospace }
.quiet { color: var(--quiet); font-size: 14px; margin-bottom: 0 }
</style>
</head>
<body><main><div class="mark">Meshwright</div><h1>${escape(title)}</h1>${body}</main></body>
</html>
`
}
