import type { UnixMillis } from '@meshwright/core'

/** Go's zero time: "none" wherever a time stands on this wire, such as a key that never expires. */
export const ZERO_TIME = '0001-01-01T00:00:00Z'

const RFC3339 = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))$/
const DAY_MS = 86_400_000

/** Milliseconds since 1970 of an RFC 3339 text (fractions beyond milliseconds are cut); `undefined` for any other text. */
export function parseTime(text: string): UnixMillis | undefined {
  const match = RFC3339.exec(text)
  if (match === null) return undefined
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number)
  if (year === undefined || month === undefined || day === undefined || hour === undefined || minute === undefined || second === undefined) return undefined
  if (month < 1 || month > 12 || day < 1 || day > daysInMonth(year, month) || hour > 23 || minute > 59 || second > 59) return undefined
  const millis = Number((match[7] ?? '').padEnd(3, '0').slice(0, 3))
  const offset = (Number(match[9] ?? 0) * 60 + Number(match[10] ?? 0)) * (match[8] === '-' ? -1 : 1)
  return daysFromCivil(year, month, day) * DAY_MS + ((hour * 60 + minute - offset) * 60 + second) * 1000 + millis
}

/** As {@link parseTime}, but `undefined` also for the zero time and for none at all. */
export function parseOptionalTime(text: string | undefined): UnixMillis | undefined {
  if (text === undefined) return undefined
  const at = parseTime(text)
  return at === ZERO_TIME_MILLIS ? undefined : at
}

/** RFC 3339 in UTC with milliseconds where they are not zero. Years 1 to 9999. */
export function formatTime(at: UnixMillis): string {
  const whole = Math.floor(at)
  const days = Math.floor(whole / DAY_MS)
  let rest = whole - days * DAY_MS
  const millis = rest % 1000
  rest = (rest - millis) / 1000
  const [year, month, day] = civilFromDays(days)
  const fraction = millis === 0 ? '' : `.${pad(millis, 3).replace(/0+$/, '')}`
  return `${pad(year, 4)}-${pad(month, 2)}-${pad(day, 2)}T${pad(Math.floor(rest / 3600), 2)}:${pad(Math.floor(rest / 60) % 60, 2)}:${pad(rest % 60, 2)}${fraction}Z`
}

const ZERO_TIME_MILLIS = -62_135_596_800_000

function pad(value: number, digits: number): string {
  return String(value).padStart(digits, '0')
}

function daysInMonth(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31
}

// Years begin in March here, so the leap day is a year's last day: 400 years have 146,097 days, 5 months from March 153.
function daysFromCivil(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year
  const era = Math.floor(y / 400)
  const yearOfEra = y - era * 400
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1
  return era * 146_097 + yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear - 719_468
}

function civilFromDays(days: number): [year: number, month: number, day: number] {
  const shifted = days + 719_468
  const era = Math.floor(shifted / 146_097)
  const dayOfEra = shifted - era * 146_097
  const yearOfEra = Math.floor((dayOfEra - Math.floor(dayOfEra / 1460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365)
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const monthFromMarch = Math.floor((5 * dayOfYear + 2) / 153)
  const month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
  return [yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - Math.floor((153 * monthFromMarch + 2) / 5) + 1]
}
