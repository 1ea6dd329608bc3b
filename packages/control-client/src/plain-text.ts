const MAX_TEXT_LENGTH = 500
// What moves a terminal's cursor, rings its bell, or turns text around: C0, DEL, C1, line and paragraph separators, bidirectional controls.
const UNPRINTABLE = / *[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+ */g
const MAX_URL_LENGTH = 2_048

/** A text that somebody else wrote, fit for one line of a log or a terminal: without control characters, and not without end. */
export function plainText(given: string): string {
  const text = given.slice(0, MAX_TEXT_LENGTH * 2).replace(UNPRINTABLE, ' ').trim()
  return text.length <= MAX_TEXT_LENGTH && given.length <= MAX_TEXT_LENGTH * 2 ? text : `${text.slice(0, MAX_TEXT_LENGTH)}…`
}

/** True for an address that a person may be asked to open in a browser: `http` or `https`, one word, not without end. */
export function isWebAddress(url: string): boolean {
  return url.length <= MAX_URL_LENGTH && /^https?:\/\/[^\s\u0000-\u0020\u007f-\u009f"<>\\^`{|}]+$/i.test(url)
}
