import { existsSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { COMMANDS, flagsOf, REFUSED, UNKNOWN, VERBS_BESIDE, verbsOf } from './cli-flags.ts'
import { bundlePrograms, OurControl, OurNode, type OurPrograms, OurRelay } from './lab-ours.ts'
import { interfaceAddress, Lab, runProgram, type RunResult } from './lab-process.ts'
import { Tailscaled } from './lab-tailscaled.ts'
import { startWeb } from './lab-web.ts'

const bin = process.env['MESHWRIGHT_INTEROP_BIN'] ?? ''
const missing = ['tailscale', 'tailscaled'].filter((name) => !existsSync(path.join(bin, name)))
const address = interfaceAddress()
const reason = missing.length > 0 ? `${missing.join(' and ')} are not in the folder that MESHWRIGHT_INTEROP_BIN names` : address === undefined ? 'this computer has no network address but loopback' : undefined
if (reason !== undefined && process.env['REQUIRE_INTEROP'] === '1') throw new Error(reason)

/** Behind the peer. */
const SUBNET = '10.77.0.0/24'

/** What the same command says of a real daemon and of ours, with what must differ made the same. */
interface Both {
  readonly real: string
  readonly ours: string
}

test('docs/cli-differences.md names every flag that is refused, every verb that is not there, and how many helps were compared [tailscale@1.102.5]', () => {
  const text = readFileSync(path.join(import.meta.dirname, '../../docs/cli-differences.md'), 'utf8')
  const rows = text.split('\n').filter((line) => line.startsWith('| '))
  expect(VERBS_BESIDE.filter((verb) => !rows.some((row) => new RegExp(`^\\|[^|]*\`${verb}\``).test(row)))).toEqual([])
  for (const [of, reason] of [...Object.entries(REFUSED), ...Object.entries(UNKNOWN)]) {
    const words = of.split(' ')
    const [command = '', flag = ''] = [words.slice(0, -1).join(' '), words.at(-1)]
    // Flags of several verbs stand in one row; those of one alone behind its name.
    expect(rows.some((row) => new RegExp(`^\\|[^|]*${flag}\\b(?!-)[^|]*\\|`).test(row)), `${command} ${flag}: ${reason}`).toBe(true)
  }
  expect(text).toContain(`compares the helps of ${COMMANDS.length} commands`)
})

describe.skipIf(reason !== undefined)(`the real command line on our socket${reason === undefined ? '' : ` (${reason})`}`, () => {
  const lab = new Lab()
  let programs: OurPrograms
  let control: OurControl
  let real: Tailscaled
  let peer: Tailscaled
  let ours: OurNode
  let key: string
  let peerIp: string
  let webPort: number

  const onOurs = (...words: readonly string[]): Promise<RunResult> => runProgram(path.join(bin, 'tailscale'), [`--socket=${lab.at('ours.sock')}`, ...words], { timeoutMs: 20_000 })

  // The names, addresses and keys of the two nodes differ, and so do times and ports.
  const plain = (result: RunResult): string =>
    `${result.err}${result.out}[${result.status}]`
      .replace(/(nodekey|mkey|discokey):[0-9a-f]+/g, '$1:KEY')
      .replace(/\b(real|ours)\b(?!":)/g, 'NODE')
      .replace(/100\.64\.0\.\d+|fd7a:115c:a1e0::\d+/g, 'IP')
      .replace(/ in [\d.]+m?s/g, ' in TIME')
      .replace(/, \d+\) via/g, ', PORT) via')
      .replace(/lookup (\S+) on \S+:/g, 'lookup $1:')
      .replace(/\/register\/\S+/g, '/register/ID')
      .replace(/(\* Time: |yes, |- \S+: ).*/g, '$1...')

  async function both(...words: readonly string[]): Promise<Both> {
    const [real_, ours_] = await Promise.all([real.run(words, 20_000), onOurs(...words)])
    return { real: plain(real_), ours: plain(ours_) }
  }

  async function same(...words: readonly string[]): Promise<void> {
    const { real: theirs, ours: mine } = await both(...words)
    expect(mine, `tailscale ${words.join(' ')}`).toBe(theirs)
  }

  beforeAll(async () => {
    programs = await bundlePrograms(lab)
    const relay = new OurRelay(lab, programs)
    await relay.start(address ?? '')
    control = new OurControl(lab, programs)
    await control.start(relay.mapFile)
    const user = await control.createUser('alice')
    key = await control.authKey('-u', user, '--reusable')
    await control.setPolicy({ acls: [{ action: 'accept', src: ['*'], dst: ['*:*', 'autogroup:internet:*'] }], autoApprovers: { routes: { [SUBNET]: ['alice@'] }, exitNode: ['alice@'] } })
    real = new Tailscaled(lab, bin, 'real')
    peer = new Tailscaled(lab, bin, 'peer')
    ours = new OurNode(lab, programs, 'ours')
    webPort = await startWeb(lab, 'hello from the lab')
    await Promise.all([real.start(), peer.start(), ours.start()])
    await peer.up(control.url, key, `--advertise-routes=${SUBNET}`)
    peerIp = await peer.ip()
  })

  afterAll(() => lab.stop())

  test('every flag of every command [tailscale@1.102.5] is known to meshwright, or listed with the reason why not', async () => {
    const [unknown, refused]: [string[], string[]] = [[], []]
    const helpOf = async (run: (words: readonly string[]) => Promise<RunResult>, ...words: readonly string[]): Promise<string> => {
      const { out, err } = await run([...words, '--help'])
      return `${out}${err}`
    }
    // Every verb that both have, and every verb below it that both have: as the helps tell it, so that none is forgotten.
    const theirHelp = (words: readonly string[]): Promise<RunResult> => runProgram(path.join(bin, 'tailscale'), words)
    const ourHelp = (words: readonly string[]): Promise<RunResult> => ours.run(words)
    const common = async (...words: readonly string[]): Promise<readonly string[]> => {
      const [theirs, mine] = [verbsOf(await helpOf(theirHelp, ...words)), verbsOf(await helpOf(ourHelp, ...words))]
      const below = theirs.filter((verb) => mine.includes(verb)).map((verb) => [...words, verb].join(' '))
      return [...below, ...(await Promise.all(below.map((verb) => common(...verb.split(' '))))).flat()]
    }
    // Their help does not list "debug".
    const all = [...(await common()), 'debug', ...(await common('debug'))]
    expect(all.sort()).toEqual([...COMMANDS].sort())
    for (const command of COMMANDS) {
      const words = [...command.split(' '), '--help']
      const [theirs, mine] = await Promise.all([runProgram(path.join(bin, 'tailscale'), words), ours.run(words)])
      const { known: wanted } = flagsOf(`${theirs.out}${theirs.err}`)
      const { known, refused: off } = flagsOf(mine.out)
      for (const flag of wanted) if (!known.includes(flag)) unknown.push(`${command} ${flag}`)
      for (const flag of off) refused.push(`${command} ${flag}`)
    }
    expect(unknown.sort()).toEqual(Object.keys(UNKNOWN).sort())
    expect(refused.sort()).toEqual(Object.keys(REFUSED).sort())
  })

  test('every verb [tailscale@1.102.5] is one of meshwright, or listed with what becomes of it on our socket', async () => {
    const [theirs, mine] = await Promise.all([runProgram(path.join(bin, 'tailscale'), ['--help']), ours.run(['--help'])])
    const own = verbsOf(mine.out)
    expect(own.length).toBeGreaterThan(10)
    expect(verbsOf(`${theirs.out}${theirs.err}`).filter((verb) => !own.includes(verb)).sort()).toEqual([...VERBS_BESIDE].sort())
  })

  // Verbs of nothing that this node offers: told so at once, and nothing is done.
  test.each(['file get .', 'drive list', 'cert peer.lab.test', 'bugreport', 'syspolicy list', 'debug derp 1'])('%s [tailscale@1.102.5]: not found, with the status of an error', async (line) => {
    const told = await onOurs(...line.split(' '))
    expect(told).toMatchObject({ status: 1, err: expect.stringContaining('is not supported by meshwrightd') as string })
  })

  describe('logged out', () => {
    test.each(['status', 'ip', 'down', 'logout', 'dns status', 'exit-node list', 'debug prefs', 'debug netmap', 'whois 100.64.0.1', 'ping --c 1 100.64.0.1', 'set --accept-routes=false', 'nc 127.0.0.1 1'])(
      '%s [tailscale@1.102.5]',
      (line) => same(...line.split(' ')),
    )

    test('up with a key that is none [tailscale@1.102.5]', async () => {
      await same('up', '--login-server', control.url, '--auth-key', 'nonsense', '--timeout', '15s')
    })
  })

  describe('logged in', () => {
    beforeAll(async () => {
      const up = (name: string): readonly string[] => ['up', '--login-server', control.url, '--auth-key', key, '--hostname', name, '--accept-dns=false', '--accept-routes', '--timeout', '15s']
      const [theirs, mine] = await Promise.all([real.run(up('real')), onOurs(...up('ours'))])
      expect([mine.status, mine.out, mine.err]).toEqual([theirs.status, theirs.out, theirs.err])
      await lab.until('all three know each other', async () => (await ours.peer('real')) !== undefined && (await ours.peer('peer')) !== undefined && (await real.peer('ours')) !== undefined)
    })

    test.each(['dns status', 'dns status --all', 'dns query peer.lab.test', 'exit-node list', 'exit-node suggest', 'debug derp-map', 'ping --c 1 --tsmp peer', 'ping --c 1 --icmp peer', 'ping --c 1 100.99.9.9', 'ping --c 1 --peerapi peer', 'ping --c 1 --peerapi 100.99.9.9', 'ping --c 1 --tsmp --size 100 peer', 'ping --c 1 --size 70000 peer', 'ip', 'ip -4', 'ip nobody.invalid', 'whois 100.99.9.9', 'whois 10.77.0.5', 'ping --c 1 --tsmp 10.77.0.5', 'ping --c 1 10.78.0.5', 'ping --c 1 8.8.8.8', 'ip peer', 'ip --1 peer', 'ip --assert=100.64.0.250', 'nc nobody.invalid 80', 'nc peer 1', 'set --netfilter-mode=bad', 'up --netfilter-mode=bad', 'set --operator=root', 'set --stateful-filtering', 'set --update-check=false', 'set --nickname=x', 'debug prefs', 'set --operator= --nickname= --stateful-filtering=false', 'set --exit-node=nobody', 'set --advertise-routes=10.0.0.1/8', 'up', 'up --hostname=x', 'debug prefs', 'get', 'get --json', 'get hostname', 'whoami', 'whoami --json', 'switch --list', 'appc-routes', 'serve status', 'funnel status', 'service list', 'lock status'])(
      '%s [tailscale@1.102.5]',
      async (line) => {
        const { real: theirs, ours: mine } = await both(...line.split(' '))
        // Numbers of the node and of its profile, when it was made; a key for tailnet lock, which ours has not; a setting that tailscaled takes from the control server for its own updater.
        const numbered = (text: string): string => text.replace(/"(Stable|Node)?ID": "?\d+"?/g, '"$1ID"').replace(/^( +ID: +)\d+$/gm, '$1').replace(/"Created": "[^"]+"/, '').replace(/^[0-9a-f]{4} /gm, 'ID ').replace(/This node's tailnet-lock key: .*\n\n/, '')
        const settled = (text: string): string => numbered(text).replace(/"Apply": (null|false)/, '')
        expect(settled(mine)).toBe(settled(theirs))
      },
    )

    test('status [tailscale@1.102.5]', async () => {
      const rows = (text: string): readonly string[] => text.split('\n').filter((row) => row.includes(' linux ')).map((row) => row.replace(/ (linux) .*/, ' $1').replace(/\s+/g, ' ')).sort()
      const { real: theirs, ours: mine } = await both('status')
      expect(rows(mine)).toEqual(rows(theirs))
      expect(mine).not.toMatch(/Unable|Warning/)
    })

    test('status --json [tailscale@1.102.5]: every member of tailscaled, with values of the same kind', async () => {
      const [theirs, mine] = await Promise.all([real.run(['status', '--json']), onOurs('status', '--json')])
      const shape = (value: unknown, at: string): readonly string[] => {
        if (typeof value !== 'object' || value === null) return [`${at}: ${value === null ? 'null' : typeof value}`]
        if (Array.isArray(value)) return value.length === 0 ? [`${at}: []`] : shape(value[0], `${at}[]`)
        return Object.entries(value).flatMap(([name, each]) => shape(each, `${at}.${name.startsWith('nodekey:') ? 'KEY' : name}`))
      }
      const known = /\.(Capabilities|TaildropTarget|PeerAPIURL|CurAddr|Relay|sshHostKeys)\b/
      const ofOurs = new Set(shape(JSON.parse(mine.out), ''))
      expect([...new Set(shape(JSON.parse(theirs.out), ''))].filter((each) => !ofOurs.has(each) && !known.test(each))).toEqual([])
    })

    test('exit nodes [tailscale@1.102.5]: listed, chosen by name and by address, shown in status, and given up', async () => {
      await peer.cli('set', '--advertise-exit-node')
      const offers = async (): Promise<boolean> => (await Promise.all([real.run(['exit-node', 'list']), onOurs('exit-node', 'list')])).every(({ out }) => out.includes('peer.lab.test'))
      await lab.until('both hear of it', offers)
      await same('exit-node', 'list')
      await same('exit-node', 'suggest')
      for (const by of ['peer', peerIp]) {
        await same('set', `--exit-node=${by}`)
        await same('exit-node', 'list')
        for (const text of Object.values(await both('status'))) expect(text).toMatch(/ peer .*; exit node/)
        await same('set', '--exit-node=')
      }
      await same('set', '--exit-node=100.99.9.9')
      await peer.cli('set', '--advertise-exit-node=false')
      await lab.until('it is withdrawn', async () => !(await offers()))
      await lab.until('and gone for both', async () => Object.values(await both('exit-node', 'list')).every((text) => text.includes('no exit nodes found')))
    })

    test('meshwright whois [tailscale@1.102.5]: the words of the real command line, also as JSON', async () => {
      for (const words of [['whois', peerIp], ['whois', '--json', peerIp]]) {
        const [theirs, mine] = await Promise.all([onOurs(...words), ours.run(words)])
        expect([mine.status, mine.err]).toEqual([theirs.status, theirs.err])
        if (words.length > 2) expect(JSON.parse(mine.out)).toEqual(JSON.parse(theirs.out))
        else expect(mine.out).toBe(theirs.out)
      }
    })

    test('whois and whois --json [tailscale@1.102.5]', async () => {
      await same('whois', peerIp)
      await same('whois', '--json', peerIp)
    })

    test('ping [tailscale@1.102.5]: a direct path is found', async () => {
      expect((await onOurs('ping', '--c', '10', '10.77.0.5')).out).toMatch(new RegExp(`^pong from peer \\(${peerIp.replaceAll('.', '\\.')}\\) via `, 'm')) // behind it: the router itself answers
      const result = await onOurs('ping', '--c', '10', '--size', '1200', peerIp)
      expect([result.status, result.out]).toEqual([0, expect.stringMatching(new RegExp(`pong from peer \\(${peerIp.replaceAll('.', '\\.')}\\) via [\\d[]`)) as string]) // of either family
    })

    test('nc [tailscale@1.102.5]: a stream through the mesh', async () => {
      const asked = await runProgram('sh', ['-c', `(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 2) | "$0" --socket="$1" nc peer ${webPort}`, path.join(bin, 'tailscale'), lab.at('ours.sock')])
      expect([asked.status, asked.out]).toEqual([0, expect.stringContaining('hello from the lab') as string])
    })

    test('netcheck [tailscale@1.102.5]: the relay map is ours', () => same('netcheck'))

    test('metrics [tailscale@1.102.5]: names that mean the same have the same help', async () => {
      const heads = (text: string): readonly string[] => text.split('\n').filter((line) => /^# (HELP|TYPE) tailscaled_/.test(line))
      const [theirs, mine] = await Promise.all([real.run(['metrics', 'print']), onOurs('metrics', 'print')])
      expect(heads(mine.out).filter((line) => !heads(theirs.out).includes(line))).toEqual([])
      expect(heads(theirs.out).filter((line) => !heads(mine.out).includes(line) && !line.includes('tailscaled_serve_'))).toEqual([])
      // By path and family: the same rows.
      const rows = (text: string): readonly string[] => text.split('\n').flatMap((line) => /^tailscaled_\S+bound_(?:bytes|packets)_total\{\S+\}/.exec(line)?.[0] ?? [])
      expect(rows(mine.out)).toEqual(rows(theirs.out))
      const direct = /^tailscaled_inbound_bytes_total\{path="direct_ipv[46]"\} [1-9]/m
      expect([direct.test(theirs.out), direct.test(mine.out)]).toEqual([true, true])
    })

    test('debug netmap [tailscale@1.102.5]: self, peers, relays, filter and DNS as the real one has them', async () => {
      const [theirs, mine] = await Promise.all([real.run(['debug', 'netmap']), onOurs('debug', 'netmap')])
      const parts = (text: string): unknown => {
        const map = JSON.parse(text) as Readonly<Record<string, unknown>> & { readonly Peers: readonly Readonly<Record<string, unknown>>[] } // the shape of the program's own output
        return { DERPMap: map['DERPMap'], DNS: map['DNS'], Domain: map['Domain'], PacketFilterRules: map['PacketFilterRules'], UserProfiles: map['UserProfiles'], peer: map.Peers.find((each) => each['Name'] === 'peer.lab.test.') }
      }
      expect(parts(mine.out)).toEqual(parts(theirs.out))
    })

    // Our own command line beside the real one, on the same socket: the words of the grammar, and how each ends.
    test.each(['status', 'ip', 'ip -4', 'ip nobody.invalid', 'netcheck', 'debug prefs', 'debug netmap', 'debug derp-map', 'debug', 'dns', 'dns status', 'dns status --all', 'dns status --json', 'dns query peer.lab.test', 'dns query --json peer.lab.test', 'exit-node', 'exit-node list', 'exit-node suggest', 'metrics', 'metrics print', 'whois 100.99.9.9', 'ping --c 1 --tsmp peer', 'ping --c 1 100.99.9.9', 'ping --c 1 --peerapi peer', 'ping --c 1 --tsmp --size 100 peer', 'ping --c 1 --size 70000 peer', 'debug prefs --pretty', 'exit-node list --filter=Norway', 'netcheck --bind-address=nonsense', 'nc peer 1', 'set --exit-node=nobody', 'version', 'status --json', 'ping --c 1 --tsmp 10.77.0.5', 'ping --c 1 10.78.0.5', 'whois 10.77.0.5', 'ip --1 peer', 'ip --assert=100.64.0.250', 'status --header', 'set --netfilter-mode=bad', 'set --nickname=x', 'set --operator=root', 'set --operator= --nickname=', 'set --accept-risk=all', 'login --help', 'up --help', 'down --help', 'logout --help', 'set --help', 'nc --help', 'netcheck --help', 'whois --help'])(
      'meshwright %s [tailscale@1.102.5]: ends as the real command line does, and says the same where the words are the same',
      async (line) => {
        const words = line.split(' ')
        const [theirs, mine] = await Promise.all([onOurs(...words), ours.run(words)])
        expect(mine.status, `${mine.err}${mine.out}`).toBe(theirs.status)
        const same = /^(ip|debug prefs$|debug derp-map|metrics|exit-node suggest)\b/.test(line) && theirs.status === 0
        const settled = (text: string): string => text.replace(/^(tailscaled_(in|out)bound|meshwright_)\S* .*$/gm, '$1')
        if (same) expect(settled(mine.out)).toBe(settled(theirs.out))
      },
    )

    test('meshwright path [tailscale@1.102.5]: the whole story of a pair with a real peer, for people and as JSON', async () => {
      await lab.until('the path is direct', async () => / via (?!DERP)/.test((await ours.run(['ping', 'peer'])).out))
      const told = await ours.run(['path', 'peer'])
      expect(told).toMatchObject({ status: 0, err: '' })
      expect(told.out).toMatch(/^peer \(100\.64\.0\.\d+\) is reached directly at \S+:\d+, [\d.]+ ms\n {2}for [^\n]+, because [^\n]+\n/)
      expect(told.out).toMatch(/^ {2}\* \S+ +[\d.]+ ms; \d+ probes?, [1-9]\d* answered, \d+ not; .*sees us as .*\(from /m)
      expect(told.out).toMatch(/^ {2}[* ] \S+ .*\(from .*map/m) // the one in use may be known by a ping alone
      const story = JSON.parse((await ours.run(['path', '--json', 'peer'])).out) as Readonly<Record<string, unknown>> // its own form
      expect(story).toMatchObject({ peer: 'peer', path: 'direct', endpoint: expect.stringMatching(/:\d+$/) as string, relay: { region: 900, code: 'ours' }, because: { text: expect.any(String) as string } })
      expect((await ours.run(['path', 'nobody'])).status).toBe(1)
    })

    test('version --daemon [tailscale@1.102.5]', async () => {
      const result = await onOurs('version', '--daemon')
      expect([result.status, result.err, /^Daemon: (.*)$/m.exec(result.out)?.[1]]).toEqual([0, '', expect.stringContaining('meshwright') as string])
    })

    test('set [tailscale@1.102.5]: is kept, and what cannot be done is refused', async () => {
      expect(await onOurs('set', '--shields-up', '--hostname=ours2', '--snat-subnet-routes=false')).toMatchObject({ status: 0, out: '', err: '' })
      const prefs = JSON.parse((await onOurs('debug', 'prefs')).out) as Readonly<Record<string, unknown>>
      expect(prefs).toMatchObject({ ShieldsUp: true, Hostname: 'ours2', NoSNAT: true })
      expect(await onOurs('set', '--ssh')).toMatchObject({ status: 1, err: expect.stringContaining('SSH') as string })
      expect(await onOurs('set', '--shields-up=false', '--hostname=ours', '--snat-subnet-routes')).toMatchObject({ status: 0 })
    })

    test('down and up [tailscale@1.102.5]', async () => {
      await same('down')
      await same('status')
      await same('down')
      const [theirs, mine] = await Promise.all(
        [real, ours].map((node) => (node === real ? real.run(['up', '--login-server', control.url, '--hostname=real', '--accept-dns=false', '--accept-routes']) : onOurs('up', '--login-server', control.url, '--hostname=ours', '--accept-dns=false', '--accept-routes'))),
      )
      expect(mine).toMatchObject({ status: theirs?.status, out: theirs?.out, err: theirs?.err })
      await lab.until('ours runs again', async () => (await ours.status()).BackendState === 'Running')
    })

    test('up --force-reauth [tailscale@1.102.5]: a new node key, the same address', async () => {
      const before = [await ours.ip(), JSON.parse((await onOurs('status', '--json')).out) as { readonly Self: { readonly PublicKey: string } }] as const
      const result = await onOurs('up', '--login-server', control.url, '--hostname=ours', '--accept-dns=false', '--accept-routes', '--force-reauth', '--accept-risk=all', '--auth-key', key, '--timeout', '15s')
      expect([result.status, result.err]).toEqual([0, ''])
      const after = JSON.parse((await onOurs('status', '--json')).out) as { readonly Self: { readonly PublicKey: string } }
      expect(after.Self.PublicKey).not.toBe(before[1].Self.PublicKey)
      expect(await ours.ip()).toBe(before[0])
    })

    test('the state file goes on in a real tailscaled, and back [tailscaled@1.102.5]', async () => {
      const ip = await ours.ip()
      const file = lab.at('ours', 'state.json')
      expect(statSync(file).mode & 0o777).toBe(0o600)
      expect(Object.keys(JSON.parse(readFileSync(file, 'utf8')) as object)).toEqual(expect.arrayContaining(['_machinekey', '_profiles', '_current-profile']))
      await ours.stop()
      const heir = new Tailscaled(lab, bin, 'heir', { state: file })
      await heir.start()
      await lab.until('the real daemon runs with our state', async () => (await heir.status()).BackendState === 'Running')
      expect(await heir.ip()).toBe(ip)
      await heir.stop()
      await ours.start()
      await lab.until('ours runs with the state that tailscaled left', async () => (await ours.status()).BackendState === 'Running')
      expect(await ours.ip()).toBe(ip)
    })

    test('logout [tailscale@1.102.5]', async () => {
      await same('logout')
      await same('status')
      await same('debug', 'netmap')
      // What was set belonged to the login; only the address of the control server stays known.
      const prefs = async (): Promise<Both> => {
        const { real: theirs, ours: mine } = await both('debug', 'prefs')
        const settled = (text: string): string => text.replace(/"(ControlURL|Apply)": [^,\n]+/g, '"$1"')
        return { real: settled(theirs), ours: settled(mine) }
      }
      const { real: theirs, ours: mine } = await prefs()
      expect(mine).toBe(theirs)
    })
  })

  describe('logged out again', () => {
    test('login and up without a key [tailscale@1.102.5]: the address to visit, until time is up', async () => {
      for (const verb of ['login', 'up']) {
        const { real: theirs, ours: mine } = await both(verb, '--login-server', control.url, '--timeout', '3s')
        expect(mine).toBe(theirs)
        expect(mine).toContain('/register/ID')
        await same('status')
      }
    })

    test('login [tailscale@1.102.5]: a key that is none, and one that is good', async () => {
      await same('login', '--login-server', control.url, '--auth-key', 'nonsense', '--timeout', '15s')
      const login = (name: string): readonly string[] => ['login', '--login-server', control.url, '--auth-key', key, '--hostname', name, '--accept-dns=false', '--timeout', '15s']
      const [theirs, mine] = await Promise.all([real.run(login('real')), onOurs(...login('ours'))])
      expect([mine.status, mine.out, mine.err]).toEqual([theirs.status, theirs.out, theirs.err])
      await lab.until('both run', async () => (await Promise.all([real.status(), ours.status()])).every(({ BackendState }) => BackendState === 'Running'))
    })

    test('meshwright login [tailscale@1.102.5]: the same ends, and the address to visit', async () => {
      await onOurs('logout')
      const waiting = await ours.run(['login', '--login-server', control.url, '--timeout', '3s'])
      expect(waiting).toMatchObject({ status: 1, err: expect.stringMatching(/To authenticate, visit:\n\n\thttp\S+\/register\/\S+\n/) as string })
      expect(await ours.run(['login', '--login-server', control.url, '--auth-key', 'nonsense', '--timeout', '15s'])).toMatchObject({ status: 1 })
      expect(await ours.run(['login', '--login-server', control.url, '--auth-key', key, '--timeout', '15s'])).toMatchObject({ status: 0 })
    })
  })
})
