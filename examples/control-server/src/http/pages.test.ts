import { expect, test } from 'vitest'
import { frontPage, loginPage, PAGE_HEADERS, sshCheckPage } from './pages.ts'

const device = { authId: 'hskey-authreq-0123456789abcdefghijklmn', hostname: '', os: '', nodeKey: `nodekey:${'0'.repeat(64)}`, rejected: false }

test('what a device says of itself is text on the page of its login, and nothing else', () => {
  const page = loginPage({ ...device, hostname: `"><img src=x onerror=alert('1')>&`, os: '</dd><script>' })
  expect(page).not.toMatch(/<img|<script/)
  expect(page).toContain('&#34;&#62;&#60;img src=x onerror=alert(&#39;1&#39;)&#62;&#38;')
})

test('characters that turn the direction of writing, or that nobody sees, are shown as what they are', () => {
  const page = loginPage({ ...device, hostname: 'a\u202egnp.exe\u0000\u200b', os: 'x\u2028y' })
  expect(page).not.toMatch(/[\u202e\u0000\u200b\u2028]/)
  expect(page).toContain('a\\u{202e}gnp.exe\\u{0}\\u{200b}')
  expect(page).toContain('x\\u{2028}y')
  expect(loginPage({ ...device, hostname: 'Zo\u00eb\u2019s \u96fb\u8133' })).toContain('Zo\u00eb\u2019s \u96fb\u8133')
})

test('pages run no script, load nothing and stand in no frame', () => {
  const policy = PAGE_HEADERS['Content-Security-Policy'] ?? ''
  for (const rule of ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"]) expect(policy).toContain(rule)
  expect(policy).not.toContain('script-src')
  expect(frontPage('http://x/"><script>')).not.toContain('<script>')
})

test('every command that a page names begins with the name of the program', () => {
  const check = { authId: 'hskey-authreq-1', state: 'waiting', source: { id: '1', givenName: 'laptop', user: 'alice' }, destination: { id: '2', givenName: 'db' }, localUser: 'root', askedAt: '2026-11-22T12:00:00Z' } as const
  for (const page of [loginPage(device), sshCheckPage(check)]) {
    const named = [...page.matchAll(/<code>([^<]*(?:auth|ssh) (?:register|approve|reject)[^<]*)</g)].map(([, command]) => command)
    expect(named).toHaveLength(2)
    for (const command of named) expect(command).toMatch(/^meshwright-control (auth|ssh) /)
  }
})
