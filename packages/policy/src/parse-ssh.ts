import type { Decoder, Item } from './decode.ts'
import type { Located, Place } from './diagnostics.ts'
import { formatDuration, parseDuration } from './duration.ts'
import { quoteText } from './hujson/quote.ts'
import { type AliasClass, type Definitions, type NameRules, readNames } from './names.ts'
import { readPostureNames } from './parse-access.ts'
import type { LocatedAlias, SshRule } from './policy.ts'

/** Members of an entry of ssh. */
export const SSH_FIELDS = [
  'action',
  'src',
  'dst',
  'users',
  'checkPeriod',
  'acceptEnv',
  'srcPosture',
  'recorder',
  'enforceRecorder',
] as const

const DEFAULT_CHECK_PERIOD_MS = 12 * 3_600_000
const MOST_CHECK_PERIOD_NS = 168n * 3_600_000_000_000n

/** What may be a source of an entry of ssh. */
export const SSH_SOURCES: readonly AliasClass[] = ['user', 'domain', 'group', 'tag', 'member', 'tagged', 'role']
/** What may be a destination of an entry of ssh. */
export const SSH_DESTINATIONS: readonly AliasClass[] = ['user', 'tag', 'tagged', 'member', 'self']
/** What may record sessions. */
export const SSH_RECORDERS: readonly AliasClass[] = ['tag', 'host', 'prefix', 'user', 'group']

const SOURCE_RULES: NameRules = {
  what: 'src',
  allowed: SSH_SOURCES,
  code: 'POLICY_SSH',
  refuse: (alias) => `invalid src ${quoteText(alias.text)}`,
  wrap: (message) => `src=${message}`,
}

const DESTINATION_RULES: NameRules = {
  what: 'dst',
  allowed: SSH_DESTINATIONS,
  code: 'POLICY_SSH',
  refuse: (alias) => `invalid dst ${quoteText(alias.text)}`,
  wrap: (message, alias) => `dst=${quoteText(alias.text)}: ${message}`,
}

/** Reads one entry of ssh; reports what is wrong with it. */
export function readSshRule(decoder: Decoder, item: Item, names: Definitions): SshRule {
  const fields = decoder.fields(item, 'every entry of ssh', SSH_FIELDS)
  const at = decoder.placeOf(item)
  const action = readAction(decoder, fields.get('action'), at)
  const sources = readNames(decoder, fields.get('src'), names, SOURCE_RULES) ?? []
  const destinations = readNames(decoder, fields.get('dst'), names, DESTINATION_RULES) ?? []
  const users = readUsers(decoder, fields.get('users'), at)
  checkPairs(decoder, action, sources, destinations)
  const acceptEnv = decoder.strings(fields.get('acceptEnv'), 'acceptEnv') ?? []
  for (const pattern of acceptEnv)
    if (pattern.value.trim() === '') decoder.reporter.report(pattern.at, 'POLICY_SSH', 'acceptEnv values cannot be empty', { fix: [{ op: 'remove', path: pattern.at.path }] })
  const recorder = readNames(decoder, fields.get('recorder'), names, {
    what: 'recorder',
    allowed: SSH_RECORDERS,
    code: 'POLICY_SSH',
    refuse: (alias) => `invalid recorder ${quoteText(alias.text)}`,
    wrap: (message) => message,
  })
  return {
    at,
    action: action ?? 'check',
    sources,
    destinations,
    users,
    checkPeriodMs: readCheckPeriod(decoder, fields.get('checkPeriod')),
    acceptEnv: acceptEnv.map((pattern) => pattern.value),
    recorder: recorder ?? [],
    enforceRecorder: decoder.boolean(fields.get('enforceRecorder'), 'enforceRecorder') ?? false,
    srcPosture: readPostureNames(decoder, fields.get('srcPosture'), names),
  }
}

function readAction(decoder: Decoder, item: Item | undefined, at: Place): 'accept' | 'check' | undefined {
  const written = decoder.optionalString(item, 'action')
  const action = written?.value.trim() ?? ''
  if (action === 'accept' || action === 'check') return action
  const message = action === '' ? 'action must be specified' : `${quoteText(action)} is not a valid action`
  const lower = action.toLowerCase()
  const meant = lower === 'accept' || lower === 'check'
  decoder.reporter.report(written?.at ?? at, 'POLICY_SSH', message, {
    remedy: 'Write "accept" or "check".',
    ...(meant && item !== undefined ? { fix: [{ op: 'replace', path: item.path, value: lower }] } : {}),
  })
  return undefined
}

function readUsers(decoder: Decoder, item: Item | undefined, at: Place): readonly Located<string>[] {
  const written = decoder.strings(item, 'users') ?? []
  if (written.length === 0)
    decoder.reporter.report(at, 'POLICY_SSH', 'users must be specified', { remedy: 'List login names, such as "autogroup:nonroot".' })
  const users = written.map((user) => ({ value: user.value.trim(), at: user.at }))
  for (const { value, at: place } of users) {
    if (value === '' || value === '*')
      decoder.reporter.report(place, 'POLICY_SSH', `user ${quoteText(value)} is not valid`, {
        remedy: 'For everyone but root write "autogroup:nonroot".',
      })
  }
  return users
}

function readCheckPeriod(decoder: Decoder, item: Item | undefined): number | 'always' {
  const written = decoder.optionalString(item, 'checkPeriod')
  const text = written?.value.trim() ?? ''
  if (written === undefined || text === '') return DEFAULT_CHECK_PERIOD_MS
  if (text === 'always') return 'always'
  const { ns, error } = parseDuration(text)
  if (error !== undefined) {
    decoder.reporter.report(written.at, 'POLICY_SSH', error, { remedy: 'Write a duration such as "12h" or "30m", or "always".' })
    return DEFAULT_CHECK_PERIOD_MS
  }
  if (ns < 0n) decoder.reporter.report(written.at, 'POLICY_SSH', `checkPeriod ${formatDuration(ns)} must be a positive duration`)
  else if (ns > MOST_CHECK_PERIOD_NS)
    decoder.reporter.report(written.at, 'POLICY_SSH', `checkPeriod ${formatDuration(ns)} is above the max (168h)`, {
      remedy: 'Write at most "168h".',
      fix: [{ op: 'replace', path: written.at.path, value: '168h' }],
    })
  return ns < 0n ? DEFAULT_CHECK_PERIOD_MS : Number(ns) / 1e6
}

/** From users to their own devices, from users to tagged devices, from tagged devices to tagged devices, and nothing else. */
function checkPairs(
  decoder: Decoder,
  action: 'accept' | 'check' | undefined,
  sources: readonly LocatedAlias[],
  destinations: readonly LocatedAlias[],
): void {
  const tagged = sources.find((source) => isTagged(source))
  if (action === 'check' && tagged !== undefined) {
    decoder.reporter.report(
      tagged.at,
      'POLICY_SSH',
      `invalid src ${quoteText(tagged.alias.text)}: check is not possible from tagged devices`,
      { remedy: 'Use the action "accept" in an entry of its own.' },
    )
  }
  const first = sources[0]?.alias
  // The one user that all sources are; every destination that is a user must be this one.
  const only = first?.kind === 'user' && sources.every((source) => source.alias.text === first.text) ? first.text : undefined
  for (const { alias, at } of destinations) {
    if (alias.kind === 'user') {
      if (sources.length > 0 && alias.text !== only)
        decoder.reporter.report(at, 'POLICY_SSH', `invalid dst ${quoteText(alias.text)}`, {
          remedy: 'Only the same user may be the source; for own devices use autogroup:self.',
        })
    } else if (alias.kind === 'autogroup' && alias.autogroup !== 'tagged') {
      if (tagged !== undefined)
        decoder.reporter.report(tagged.at, 'POLICY_SSH', 'autogroup:self can only be used with users, groups, or supported autogroups')
    }
  }
}

function isTagged({ alias }: LocatedAlias): boolean {
  const kind: AliasClass | Exclude<typeof alias.kind, AliasClass> =
    alias.kind === 'autogroup' && alias.autogroup === 'tagged' ? 'tagged' : alias.kind
  return kind === 'tag' || kind === 'tagged'
}
