import { utf8Encode } from '@meshwright/core'
import { expect, test } from 'vitest'
import {
  decodeC2nRequest,
  decodeDERPMap,
  decodeDocument,
  decodeFilterRules,
  decodeMapRequest,
  decodeMapResponse,
  decodeNode,
  decodeRegisterRequest,
  decodeRegisterResponse,
  derpMapFromRelayMap,
  encodeC2nResponse,
  formatJson,
  formatTime,
  mapRequestKind,
  parseJson,
  parseOptionalTime,
  parseTime,
  relayMapFromDERPMap,
  releaseOfCapabilityVersion,
  ZERO_NODE_KEY,
  ZERO_TIME,
} from './index.ts'

const KEY = `nodekey:${'ab'.repeat(32)}`

test('absent members of a request read as zero or stay absent; unknown ones are ignored', () => {
  expect(decodeRegisterRequest({ Future: { x: 1 } })).toEqual({ ok: true, value: { Version: 0, NodeKey: ZERO_NODE_KEY } })
  expect(decodeRegisterResponse({ User: null, NodeKeySignature: null })).toEqual({ ok: true, value: { NodeKeyExpired: false, MachineAuthorized: false, AuthURL: '', Error: '' } })
  expect(decodeMapRequest({ Version: 142, NodeKey: KEY, Endpoints: null })).toEqual({ ok: true, value: { Version: 142, NodeKey: KEY } })
})

test('a wrong type is refused with the path to it, and the value is not quoted', () => {
  const cases: [unknown, string, string][] = [
    [{ Peers: [{}, { Key: 'nodekey:12' }] }, 'Peers[1].Key', 'expected nodekey: and 64 hex digits'],
    [{ Node: { Key: '' } }, 'Node.Key', 'expected nodekey: and 64 hex digits'],
    [{ Node: { KeyExpiry: '' } }, 'Node.KeyExpiry', 'expected a time as in RFC 3339'],
    [{ Node: { Hostinfo: { NetInfo: { DERPLatency: { '1-v4': 'fast' } } } } }, 'Node.Hostinfo.NetInfo.DERPLatency."1-v4"', 'expected a number'],
    [{ Peers: {} }, 'Peers', 'expected an array'],
    [{ PeersRemoved: [1, 2.5] }, 'PeersRemoved[1]', 'expected an integer of 64 bits'],
    [{ PingRequest: { Payload: '!!' } }, 'PingRequest.Payload', 'expected padded base64'],
    [{ PacketFilter: [{ SrcIPs: ['*'], DstPorts: [{ IP: '10.0.0.0', Bits: 8, Ports: { First: 0, Last: 1 } }] }] }, 'PacketFilter[0].DstPorts[0]', 'Bits is not supported'],
    [[], '', 'expected an object'],
    [null, '', 'expected a value'],
  ]
  for (const [value, path, problem] of cases) expect(decodeMapResponse(value)).toEqual({ ok: false, path, problem })
  expect(decodeDocument(decodeMapResponse, '{')).toEqual({ ok: false, path: '', problem: 'not a JSON document, or one that is too large' })
})

test('null and empty are told apart where the protocol does', () => {
  const decoded = decodeMapResponse({ PacketFilter: null, PacketFilters: { a: null, b: [] }, Peers: [], DisplayMessages: { x: null }, DERPMap: { Regions: { 1: null } } })
  expect(decoded).toEqual({ ok: true, value: { PacketFilters: { a: null, b: [] }, Peers: [], DisplayMessages: { x: null }, DERPMap: { Regions: {} } } })
  expect(decodeNode({ ID: 1, Name: 'a.', Key: KEY, AllowedIPs: null, CapMap: { x: null, y: [] } })).toMatchObject({ ok: true, value: { CapMap: { x: [], y: [] } } })
  expect(decodeNode({ Key: KEY, AllowedIPs: [] })).toMatchObject({ value: { AllowedIPs: [] } })
})

test('identifiers beyond 2^53 survive decoding and encoding exactly, small ones stay numbers', () => {
  const text = `{"ID":9007199254740993,"User":-5,"Key":"${KEY}","CapMap":{"x":[12345678901234567890,"1234567890123456789"]}}`
  const decoded = decodeDocument(decodeNode, utf8Encode(text))
  expect(decoded).toMatchObject({ ok: true, value: { ID: 9007199254740993n, User: -5 } })
  expect(formatJson(decoded.ok ? decoded.value : '')).toContain('"x":[12345678901234567890,"1234567890123456789"]')
  expect(parseJson('[9007199254740991,9007199254740992,-9007199254740993,1e300,0.1234567890123456789]')).toEqual([9007199254740991, 9007199254740992n, -9007199254740993n, 1e300, 0.12345678901234568])
  expect(parseJson('{"a" : [ { "b\\"}" : 99999999999999999999 } , true ] }')).toEqual({ a: [{ 'b"}': 99999999999999999999n }, true] })
  expect(decodeNode({ ID: 1n << 63n, Key: KEY })).toMatchObject({ ok: false, path: 'ID' })
  expect(decodeDocument(decodeNode, `{"ID":99999999999999999999,"Key":"${KEY}"}`)).toMatchObject({ ok: false, path: 'ID' })
})

test('documents nested too deep, not UTF-8 or not JSON are no documents', () => {
  expect(parseJson('['.repeat(64) + ']'.repeat(64))).toBeDefined()
  expect(parseJson('['.repeat(65) + ']'.repeat(65))).toBeUndefined()
  expect(parseJson('['.repeat(1_000_000))).toBeUndefined()
  expect(parseJson(Uint8Array.of(0x22, 0xff, 0x22))).toBeUndefined()
  expect(parseJson('{} {}')).toBeUndefined()
})

test('members called __proto__ are data', () => {
  const decoded = decodeDocument(decodeNode, `{"Key":"${KEY}","CapMap":{"__proto__":[1]},"__proto__":{"Name":"evil."}}`)
  expect(decoded).toMatchObject({ ok: true, value: { Name: '' } })
  expect(decoded.ok && Object.keys(decoded.value.CapMap ?? {})).toEqual(['__proto__'])
})

test('key texts of upper case are taken and come out in lower case', () => {
  expect(decodeNode({ Key: `nodekey:${'AB'.repeat(32)}` })).toMatchObject({ value: { Key: KEY } })
})

test('times agree with the platform over eight centuries, and the zero time means none', () => {
  for (let at = Date.UTC(1600, 0, 1); at < Date.UTC(2400, 0, 1); at += 86_400_000 * 37 + 12_345_678) {
    const text = new Date(at).toISOString()
    expect(parseTime(text)).toBe(at)
    expect(new Date(formatTime(at)).getTime()).toBe(at)
  }
  expect(parseTime('2026-11-21T06:54:12.426619895Z')).toBe(Date.UTC(2026, 10, 21, 6, 54, 12, 426))
  expect(parseTime('2026-11-21T06:54:12+05:30')).toBe(Date.UTC(2026, 10, 21, 1, 24, 12))
  expect(formatTime(Date.UTC(2026, 0, 2, 3, 4, 5))).toBe('2026-01-02T03:04:05Z')
  expect(formatTime(parseTime(ZERO_TIME) ?? 1)).toBe(ZERO_TIME)
  expect(parseOptionalTime(ZERO_TIME)).toBeUndefined()
  expect(parseOptionalTime(undefined)).toBeUndefined()
  for (const bad of ['', '2026-02-29T00:00:00Z', '2026-13-01T00:00:00Z', '2026-01-01T24:00:00Z', '2026-01-01 00:00:00Z', '2026-01-01T00:00:00', 'x']) expect(parseTime(bad)).toBeUndefined()
})

test('a relay map survives the way to the wire and back; zero ports and empty texts are absent', () => {
  const wire = {
    Regions: {
      900: { RegionID: 900, RegionCode: 'own', RegionName: 'Own', NoMeasureNoHome: true, Nodes: [{ Name: '900a', RegionID: 900, HostName: 'h', CertName: 'sha256-raw:aa', IPv4: '192.0.2.1', IPv6: 'none', STUNPort: -1, DERPPort: 3443, InsecureForTests: true }] },
      901: { RegionID: 901, RegionCode: 'b', RegionName: 'B', Nodes: [{ Name: '901a', RegionID: 901, HostName: 'h2' }] },
    },
  }
  expect(derpMapFromRelayMap(relayMapFromDERPMap(wire))).toEqual(wire)
  const decoded = decodeDERPMap({ Regions: { 5: { Nodes: [{ HostName: 'x', STUNPort: 0, DERPPort: 0, IPv4: '' }] }, '-1': {}, x: {} } })
  const map = relayMapFromDERPMap(decoded.ok ? decoded.value : {})
  expect([...map.regions.values()]).toEqual([{ id: 5, code: '', name: '', nodes: [{ name: '', regionId: 5, hostName: 'x' }] }])
})

test('map requests are told apart as the table says', () => {
  const base = { Version: 142, NodeKey: KEY }
  expect(mapRequestKind({ ...base, Stream: true, OmitPeers: true })).toBe('stream')
  expect(mapRequestKind({ ...base, OmitPeers: true })).toBe('lite')
  expect(mapRequestKind({ ...base, OmitPeers: true, ReadOnly: true })).toBe('fetch')
  expect(mapRequestKind(base)).toBe('fetch')
})

test('filter rules with application grants pass unread', () => {
  const rules = [{ SrcIPs: ['100.64.0.1'], CapGrant: [{ Dsts: ['100.64.0.2/32'], CapMap: { 'example.com/cap': [{ a: [1] }], none: null } }] }, { SrcIPs: ['*'], IPProto: [6], DstPorts: [{ IP: '*', Ports: { First: 22, Last: 22 } }] }]
  expect(decodeFilterRules(rules)).toEqual({ ok: true, value: rules })
})

test('a c2n answer cannot smuggle header lines', () => {
  const bytes = encodeC2nResponse({ status: 200, reason: 'OK\r\nX: 1', headers: new Map([['A', 'b\r\nEvil: 1']]), body: new Uint8Array(0) })
  expect(new TextDecoder().decode(bytes)).toBe('HTTP/1.1 200 OK  X: 1\r\nConnection: close\r\nA: b  Evil: 1\r\n\r\n')
  expect(decodeC2nRequest({ URL: '' })).toBeUndefined()
})

test('capability versions are named by release', () => {
  expect([142, 113, 114, 67].map(releaseOfCapabilityVersion)).toEqual(['1.102', '1.80', '1.80', 'before 1.48'])
})

test('a null in a filter rule never widens it: it keeps its place, and a list of nulls is no empty list', () => {
  const decoded = decodeFilterRules([{ SrcIPs: [null, '10.0.0.1'], SrcBits: [8, null, 0], DstPorts: null, IPProto: [null] }])
  expect(decoded).toEqual({ ok: true, value: [{ SrcIPs: ['', '10.0.0.1'], SrcBits: [8, -1, 0], IPProto: [-1] }] })
})

test('relays with a port that is none are left out, a STUN port that is none means no STUN, and a map has an end', () => {
  const node = (more: object): object => ({ Name: '1a', RegionID: 1, HostName: 'relay.example', ...more })
  const map = (nodes: readonly object[]): ReturnType<typeof relayMapFromDERPMap> => {
    const decoded = decodeDERPMap({ Regions: { '1': { RegionID: 1, RegionCode: 'x', RegionName: 'x', Nodes: nodes } } })
    return relayMapFromDERPMap(decoded.ok ? decoded.value : {})
  }
  expect(map([node({ DERPPort: 65_536 }), node({ DERPPort: -1 })]).regions.get(1)?.nodes).toEqual([])
  expect(map([node({ STUNPort: 65_536 }), node({ STUNPort: -5 }), node({ STUNPort: 3478 }), node({})]).regions.get(1)?.nodes.map(({ stunPort }) => stunPort)).toEqual([-1, -1, 3478, undefined])
  expect(map(Array.from({ length: 500 }, () => node({}))).regions.get(1)?.nodes.length).toBe(100)
  const many = decodeDERPMap({ Regions: Object.fromEntries(Array.from({ length: 3_000 }, (_, i) => [String(i + 1), { RegionID: i + 1 }])) })
  expect(relayMapFromDERPMap(many.ok ? many.value : {}).regions.size).toBe(1_000)
})

test('a document of more items than any map has is refused before it becomes objects', () => {
  const items = (count: number): Uint8Array => Buffer.from(`[${'{},'.repeat(count / 2)}{}]`)
  expect(parseJson(items(1_000))).toHaveLength(501)
  expect(parseJson(items(6_000_002))).toBeUndefined()
})

test('an integer of a million digits costs nothing: it comes rounded, as native parsing gives it', () => {
  const value = parseJson(`[${'9'.repeat(1_000_000)}]`)
  expect(Array.isArray(value) && value[0] === Number.POSITIVE_INFINITY).toBe(true)
  expect(parseJson('{"ID":9223372036854775807}')).toEqual({ ID: 9_223_372_036_854_775_807n })
})
