import { formatJson, type Hostinfo } from '@meshwright/control-protocol'

/** Real clients stay far below all of these. What is beyond is cut off: peers and disks are not made to carry what one node makes up. */
const MAX_TEXT = 512
const MAX_ROUTES = 4_096
const MAX_ROUTE_TEXT = 64
const MAX_ITEMS = 64
const MAX_SSH_KEYS = 16
const MAX_SSH_KEY_TEXT = 2_048
const MAX_LATENCIES = 256
const MAX_RAW_TEXT = 4_096

/** A hostinfo of bounded size: long texts and lists are cut, and a `TPM` that is none is left out. Gives the same object when nothing was too long. */
export function soundHostinfo(given: Hostinfo): Hostinfo {
  const sound: Record<string, unknown> = {}
  let changed = false
  for (const [name, value] of Object.entries(given)) {
    const kept = soundMember(name, value)
    if (kept !== undefined) sound[name] = kept
    if (kept !== value) changed = true
  }
  return changed ? sound : given
}

function soundMember(name: string, value: unknown): unknown {
  if (typeof value === 'string') return cut(value, MAX_TEXT)
  if (name === 'RoutableIPs') return texts(value, MAX_ROUTES, MAX_ROUTE_TEXT)
  if (name === 'sshHostKeys') return texts(value, MAX_SSH_KEYS, MAX_SSH_KEY_TEXT)
  if (name === 'TPM') return formatJson(value).length <= MAX_RAW_TEXT ? value : undefined
  if (Array.isArray(value)) return value.every((item) => typeof item === 'string') ? texts(value, MAX_ITEMS, MAX_TEXT) : items(value)
  if (name === 'NetInfo' || name === 'Location') return members(value, name === 'NetInfo' ? MAX_LATENCIES : MAX_ITEMS)
  return value
}

function texts(value: unknown, most: number, longest: number): unknown {
  if (!Array.isArray(value)) return value
  if (value.length <= most && value.every((item) => typeof item === 'string' && item.length <= longest)) return value
  return value.filter((item) => typeof item === 'string' && item.length <= longest).slice(0, most)
}

/** Services: objects of texts and numbers. */
function items(value: readonly unknown[]): unknown {
  const kept = value.slice(0, MAX_ITEMS).map((item) => members(item, MAX_ITEMS))
  return kept.length === value.length && kept.every((item, i) => item === value[i]) ? value : kept
}

/** An object with texts, numbers and one level of such objects in it. */
function members(value: unknown, most: number): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const given = Object.entries(value)
  const kept = given.slice(0, most).flatMap(([name, item]) => {
    if (name.length > MAX_TEXT) return []
    return [[name, typeof item === 'string' ? cut(item, MAX_TEXT) : members(item, most)] as const]
  })
  return kept.length === given.length && kept.every(([, item], i) => item === given[i]?.[1]) ? value : Object.fromEntries(kept)
}

function cut(text: string, longest: number): string {
  return text.length <= longest ? text : text.slice(0, longest)
}
