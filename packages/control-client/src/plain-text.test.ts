import { expect, test } from 'vitest'
import { isWebAddress, plainText } from './plain-text.ts'

test('texts of others paint nothing on a terminal and have an end', () => {
  expect(plainText('no \u001b[2Jroom\r\n\u0007left')).toBe('no [2Jroom left')
  expect(plainText('a\u202eb')).toBe('a b')
  expect(plainText('é ü 漢字')).toBe('é ü 漢字')
  expect(plainText('x'.repeat(1_000_000))).toBe(`${'x'.repeat(500)}…`)
  expect(plainText('x'.repeat(500))).toBe('x'.repeat(500))
  expect(plainText(`${' '.repeat(2_000)}x`)).toBe('…')
})

test('only addresses of the web are for browsers', () => {
  for (const url of ['https://control.example/a/b?c=d#e', 'http://127.0.0.1:8080/register/abc', 'http://[::1]:1/']) expect(isWebAddress(url)).toBe(true)
  for (const url of ['', 'javascript:alert(1)', 'file:///etc/passwd', '-e reboot', 'https://', 'https://a b', 'https://a\u001b[2J', 'https://a\n', 'ftp://a', `https://a/${'x'.repeat(3_000)}`]) expect(isWebAddress(url)).toBe(false)
})
