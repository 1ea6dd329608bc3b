import { DOMAIN, type DemoMesh } from './demo-mesh.ts'
import type { NodeProcess } from './node-process.ts'
import { Probe } from './probe.ts'
import type { Step } from './report.ts'
import { expect, sleep, until } from './waiting.ts'

const PAYLOAD_BYTES = 1_000_000
/** A busy computer may take so long; tries to reach a control server that was away become rarer, too. */
const SETTLE_MS = 40_000
/** Longer than WireGuard waits before it repeats a first message that was lost. */
const ANSWER_MS = 20_000
const SHORT_TIMEOUT_MS = 700
const QUIET_MS = 250
/** So many requests must agree that a change is felt. */
const AGREEING = 5

/** The proof: what is claimed of the mesh, step by step. Every step builds on those before it. */
export function proof(mesh: DemoMesh, complaint: () => string | undefined): readonly Step[] {
  const { control, relay, alice, bob, app, db, nodes } = mesh
  const wait = <T>(what: string, ask: () => Promise<T | undefined>): Promise<T> => until(what, SETTLE_MS, ask, complaint)
  const toDatabase = (from: NodeProcess, timeoutMs = ANSWER_MS): Promise<string> => answerOf(from, `db.${DOMAIN}`, mesh.database.port, 'database', timeoutMs)
  const toApplication = (from: NodeProcess, timeoutMs = ANSWER_MS): Promise<string> => answerOf(from, `app.${DOMAIN}`, mesh.application.port, 'application', timeoutMs)

  return [
    {
      name: 'A control server, a relay and four nodes start, a process each',
      async run() {
        await relay.start()
        await Promise.all([control.start(), ...nodes.map((node) => node.start())])
        return `control server ${control.url} (SQLite in a fresh folder), relay on TLS port ${relay.port}, nodes ${nodes.map((node) => node.name).join(', ')}`
      },
    },
    {
      name: 'Three nodes register by auth key: a laptop of bob, tag:app and tag:db',
      async run() {
        const created = await Promise.all(['alice', 'bob'].map((user) => control.json<{ readonly id: string }>('users', 'create', user)))
        const keys = await Promise.all([control.authKey({ userId: created[1]?.id ?? '' }), control.authKey({ tag: 'tag:app' }), control.authKey({ tag: 'tag:db' })])
        await Promise.all([bob, app, db].map((node, i) => node.up(control.url, ['--auth-key', keys[i] ?? ''])))
        return (await addresses([bob, app, db])).join(', ')
      },
    },
    {
      name: "Alice's laptop registers by login URL, which an admin approves",
      async run() {
        let approval: Promise<unknown> | undefined
        let url = ''
        await alice.up(control.url, ['--json'], (soFar) => {
          const found = /"AuthURL":\s*"([^"]+)"/.exec(soFar)?.[1]
          if (found === undefined || approval !== undefined) return
          url = found
          approval = openLoginPage(found).then(() => control.command('auth', 'register', '--auth-id', found, '-u', 'alice'))
          approval.catch(() => undefined) // awaited below
        })
        await approval
        expect(url !== '', 'no login URL was shown')
        const listed = await wait('all four nodes are online', async () => {
          const list = await control.nodes()
          return list.length === 4 && list.every((node) => node.online) ? list : undefined
        })
        for (const [name, owner] of [['alice-laptop', 'alice'], ['bob-laptop', 'bob'], ['app', 'tag:app'], ['db', 'tag:db']] as const) {
          const node = listed.find((each) => each.givenName === name)
          const owners = node === undefined ? 'nobody' : node.tags.length > 0 ? node.tags.join() : node.user?.name
          expect(owners === owner, `${name} belongs to ${owners ?? 'nobody'}, not to ${owner}`)
        }
        return `${url.replace(/(\/register\/.{14}).*/, '$1…')} approved with "auth register"; ${(await addresses([alice])).join()}; all four are online`
      },
    },
    {
      name: 'Without a policy everything is denied',
      async run() {
        for (const node of nodes) expect(Object.keys((await node.status()).Peer ?? {}).length === 0, `${node.name} sees other nodes`)
        return 'no node sees any other'
      },
    },
    {
      name: 'A policy takes effect while everything runs: it opens',
      async run() {
        const felt = await feltAfter(() => control.setPolicy(mesh.maintenance), (timeoutMs) => toDatabase(alice, timeoutMs), 'answers')
        return `alice's laptop reads the database ${felt}`
      },
    },
    {
      name: 'Direct path: packets go from node to node',
      async run() {
        const ping = await app.command(['ping', 'db'])
        const via = /via (127\.0\.0\.1:\d+|\[::1\]:\d+) in (\S+)/.exec(ping.out)
        expect(via !== null, `the last ping said: ${ping.out.trim()}`)
        await wait('app reaches db directly', async () => ((await app.peer('db'))?.CurAddr !== '' ? true : undefined))
        const before = { node: (await app.status()).Meshwright.DirectBytesOut, relay: await relay.counters() }
        await upload(app, `db.${DOMAIN}`, mesh.database.port)
        const direct = (await app.status()).Meshwright.DirectBytesOut - before.node
        const relayed = (await relay.counters()).received - before.relay.received
        expect(direct >= PAYLOAD_BYTES, `only ${bytes(direct)} left app directly`)
        expect(relayed < PAYLOAD_BYTES / 10, `the relay carried ${bytes(relayed)}`)
        return `app to db via ${via[1] ?? ''} in ${via[2] ?? ''}; of an upload of ${bytes(PAYLOAD_BYTES)}, ${bytes(direct)} left app directly, the relay saw ${bytes(relayed)}`
      },
    },
    {
      name: 'Relay path: a node whose UDP is blocked (--block-udp) is reached all the same',
      async run() {
        const before = await relay.counters()
        await upload(bob, `app.${DOMAIN}`, mesh.application.port)
        const after = await relay.counters()
        const received = after.received - before.received
        const sent = after.sent - before.sent
        expect(received >= PAYLOAD_BYTES && sent >= PAYLOAD_BYTES, `the relay received only ${bytes(received)} and passed on only ${bytes(sent)}`)
        const seen = await bob.peer('app')
        expect(seen?.CurAddr === '' && seen.Relay === 'demo', `bob's laptop reaches app by ${seen?.CurAddr ?? 'nothing'}`)
        expect((await bob.status()).Meshwright.DirectBytesOut === 0, "bob's laptop has sent UDP")
        return `bob's laptop to app: of an upload of ${bytes(PAYLOAD_BYTES)} the relay received ${bytes(received)} and passed on ${bytes(sent)}`
      },
    },
    {
      name: 'A path falls back to the relay when UDP is blocked, and comes back',
      async run() {
        await toApplication(alice)
        await wait("alice's laptop reaches app directly", async () => ((await alice.peer('app'))?.CurAddr !== '' ? true : undefined))
        // A peer trusts a direct path for some seconds after the last sign of life: requests are slow meanwhile, and none may be lost.
        const traffic = new Probe(() => toApplication(alice, SETTLE_MS), 250)
        const blocked = performance.now()
        await alice.blockUdp(true)
        await wait('the relay carries', async () => ((await alice.peer('app'))?.CurAddr === '' ? true : undefined))
        await toApplication(alice, SETTLE_MS)
        const fell = performance.now() - blocked
        const freed = performance.now()
        await alice.blockUdp(false)
        await wait('the path is direct again', async () => ((await alice.peer('app'))?.CurAddr !== '' ? true : undefined))
        const rose = performance.now() - freed
        const { answered, failures } = await traffic.stop()
        expect(failures.length === 0, `${failures.length} of ${answered + failures.length} requests were lost: ${failures[0]?.reason ?? ''}`)
        return `alice's laptop to app by relay ${Math.round(fell)} ms after UDP was blocked, direct again ${Math.round(rose)} ms after it was freed; ${answered} requests meanwhile, none lost`
      },
    },
    {
      name: 'Allowed: HTTP from tag:app to tag:db, through SOCKS5',
      async run() {
        return `app asked db: ${await toDatabase(app)}`
      },
    },
    {
      name: "Denied: the same from alice's laptop, once the policy no longer allows it",
      async run() {
        const first = await toDatabase(alice)
        const felt = await feltAfter(() => control.setPolicy(mesh.policy), (timeoutMs) => toDatabase(alice, timeoutMs), 'fails')
        const { drops } = await seesNothing(db, alice, () => toDatabase(alice, SHORT_TIMEOUT_MS))
        expect(drops > 0, 'db has dropped nothing: the packets have not come as far as its filter')
        await toDatabase(app)
        return `under the maintenance policy it was answered (${first}); cut off ${felt}; 4 more attempts fail, db counts 0 inner packets and ${drops} drops by its filter; app is still answered`
      },
    },
    {
      name: 'Invisible: what no rule connects does not even see each other',
      async run() {
        // Each node hears of the policy by itself.
        for (const [from, to] of [[bob, db], [db, bob]] as const) await wait(`${from.name} does not see ${to.name}`, async () => ((await from.peer(to.name)) === undefined ? true : undefined))
        expect((await alice.peer('db')) !== undefined, "alice's laptop, which may log in to db, does not see it")
        return "bob's laptop and db have never heard of each other"
      },
    },
    {
      name: 'Names of the mesh resolve',
      async run() {
        const wanted = (await db.status()).TailscaleIPs ?? []
        const { out } = await app.command(['ip', 'db'])
        expect(out.trim().split('\n').join() === wanted.join(), `"meshwright ip db" says ${out.trim()}, not ${wanted.join()}`)
        await answerOf(app, 'db', mesh.database.port, 'database', ANSWER_MS)
        await answerOf(app, `DB.${DOMAIN}.`, mesh.database.port, 'database', ANSWER_MS)
        const who = await db.command(['whois', (await app.status()).TailscaleIPs?.[0] ?? ''])
        expect(who.out.includes(`app.${DOMAIN}`) && who.out.includes('tag:app'), `whois says: ${who.out}`)
        return `db and db.${DOMAIN} through SOCKS5, "meshwright ip db" = ${wanted.join(', ')}, "meshwright whois" knows app and its tag`
      },
    },
    {
      name: 'The control server is killed and started again, and no request is lost',
      async run() {
        const before = await control.nodes()
        const traffic = [new Probe(() => toDatabase(app), 50), new Probe(() => toApplication(bob), 100)]
        const answering = (what: string): Promise<unknown> => {
          const begun = performance.now()
          return wait(`requests are answered ${what}`, async () => (traffic.every((probe) => (probe.report.lastAnswer ?? 0) > begun) ? true : undefined))
        }
        await answering('before')
        const killed = performance.now()
        await control.killHard()
        await sleep(1_000)
        await answering('while the control server is gone')
        await control.start()
        const started = performance.now()
        await wait('all four nodes are online again', async () => ((await control.nodes()).every((node) => node.online) ? true : undefined))
        const back = performance.now() - started
        const reports = await Promise.all(traffic.map((probe) => probe.stop()))
        const lost = reports.flatMap((report) => report.failures)
        const answered = reports.reduce((sum, report) => sum + report.answered, 0)
        const when = lost.map((failure) => Math.round(failure.at - started)).sort((a, b) => a - b)
        expect(
          lost.length === 0,
          `${lost.length} of ${answered + lost.length} requests were lost (app to db ${reports[0]?.failures.length ?? 0}, bob's laptop to app ${reports[1]?.failures.length ?? 0}; begun ${when[0] ?? 0} to ${when.at(-1) ?? 0} ms after the new start): ${lost[0]?.reason ?? ''}`,
        )
        const after = await control.nodes()
        for (const node of before) expect(after.some((each) => each.id === node.id && each.ipAddresses.join() === node.ipAddresses.join()), `${node.givenName} was forgotten or has another address`)
        expect((await control.command('policy', 'get')).out.trim() === mesh.policy.trim(), 'the policy is not what it was')
        return `SIGKILL, away for ${Math.round(started - killed)} ms; ${answered} requests, 0 lost; all nodes online ${Math.round(back)} ms after the start, with their addresses and the policy`
      },
    },
    {
      name: "A node is expired: bob's laptop is cut off",
      async run() {
        const first = await toApplication(bob)
        const id = (await control.nodes()).find((node) => node.givenName === bob.name)?.id ?? ''
        const felt = await feltAfter(() => control.command('nodes', 'expire', '-i', id), (timeoutMs) => toApplication(bob, timeoutMs), 'fails')
        await seesNothing(app, bob, () => toApplication(bob, SHORT_TIMEOUT_MS))
        await wait("bob's laptop asks for a login", async () => ((await bob.status()).BackendState === 'NeedsLogin' ? true : undefined))
        return `it was answered before (${first}); cut off ${felt}; app counts 0 inner packets from 4 more attempts`
      },
    },
    {
      name: 'It logs in again with a new key, and is back',
      async run() {
        const id = (await control.json<readonly { readonly id: string; readonly name: string }[]>('users', 'list')).find((user) => user.name === 'bob')?.id ?? ''
        const address = (await control.nodes()).find((node) => node.givenName === bob.name)?.ipAddresses[0]
        await bob.up(control.url, ['--force-reauth', '--auth-key', await control.authKey({ userId: id })])
        await wait("bob's laptop is answered", () => toApplication(bob, SHORT_TIMEOUT_MS))
        const now = (await bob.status()).TailscaleIPs?.[0]
        expect(now === address, `it has the address ${now ?? 'none'}, not ${address ?? 'none'}`)
        return `answered again, with its old address ${now ?? ''}`
      },
    },
  ]
}

async function answerOf(from: NodeProcess, host: string, port: number, service: string, timeoutMs: number): Promise<string> {
  const { status, body } = await from.http(host, port, { timeoutMs })
  const answer = JSON.parse(body) as { readonly service?: string; readonly request?: number }
  expect(status === 200 && answer.service === service, `${host} answered ${status} ${body.trim()}`)
  return `200, ${answer.service}, request ${answer.request ?? '?'}`
}

async function upload(from: NodeProcess, host: string, port: number): Promise<void> {
  const { status, body } = await from.http(host, port, { timeoutMs: SETTLE_MS, body: new Uint8Array(PAYLOAD_BYTES) })
  const { bytes: counted } = JSON.parse(body) as { readonly bytes?: number }
  expect(status === 200 && counted === PAYLOAD_BYTES, `${host} has received ${counted ?? 0} of ${PAYLOAD_BYTES} bytes`)
}

// Asks on and on while a command changes something; tells when the change was first felt, counted from the moment the command was typed.
// A single request that fails says little on a busy computer, where an answer may take longer than is waited for: some more must agree.
async function feltAfter(change: () => Promise<{ readonly ms: number }>, ask: (timeoutMs?: number) => Promise<unknown>, what: 'answers' | 'fails'): Promise<string> {
  const probe = new Probe(() => ask(SHORT_TIMEOUT_MS), 40)
  await sleep(150)
  const typed = performance.now()
  const { ms } = await change()
  const felt = (): number | undefined => {
    const { firstAnswer, lastAnswer, failures } = probe.report
    if (what === 'fails') {
      const since = failures.map(({ at }) => at).filter((at) => at > (lastAnswer ?? 0))
      return since.length < AGREEING ? undefined : Math.min(...since)
    }
    if (firstAnswer === undefined) throw new Error(failures.at(-1)?.reason)
    return firstAnswer
  }
  try {
    const at = await until(`the change is felt (requests ${what === 'answers' ? 'are answered' : 'fail'})`, SETTLE_MS, async () => {
      if (felt() === undefined) return undefined
      await sleep(QUIET_MS)
      return felt() // still
    })
    await probe.stop()
    // Once it is felt it must stay so. That nothing is answered any more is tried again by who asks for it.
    if (what === 'answers') for (let i = 0; i < AGREEING; i += 1) await ask()
    return `${Math.max(0, Math.round(at - typed))} ms after the command was typed (it took ${Math.round(ms)} ms)`
  } finally {
    await probe.stop()
  }
}

// Tries again while nobody else speaks with the destination: all attempts must fail, and no inner packet may arrive.
async function seesNothing(destination: NodeProcess, from: NodeProcess, ask: () => Promise<unknown>, tries: number = 3): Promise<{ readonly drops: number }> {
  await until(`${destination.name} is quiet`, SETTLE_MS, async () => {
    const { PacketsIn } = (await destination.status()).Meshwright
    await sleep(QUIET_MS)
    return (await destination.status()).Meshwright.PacketsIn === PacketsIn ? true : undefined
  })
  const before = (await destination.status()).Meshwright
  const outcomes = await Promise.allSettled(Array.from({ length: 4 }, ask))
  await sleep(QUIET_MS)
  const after = (await destination.status()).Meshwright
  const answered = outcomes.filter((outcome) => outcome.status === 'fulfilled').length
  expect(answered === 0, `${answered} of 4 attempts from ${from.name} were answered`)
  // On a busy computer the last packet of somebody else's connection may come late: what comes through the filter does so each time.
  if (after.PacketsIn !== before.PacketsIn && tries > 1) return seesNothing(destination, from, ask, tries - 1)
  expect(after.PacketsIn === before.PacketsIn, `${destination.name} has received ${after.PacketsIn - before.PacketsIn} inner packets`)
  return { drops: (after.Drops['filter-in'] ?? 0) - (before.Drops['filter-in'] ?? 0) }
}

async function addresses(nodes: readonly NodeProcess[]): Promise<readonly string[]> {
  return Promise.all(nodes.map(async (node) => `${node.name} ${(await node.status()).TailscaleIPs?.[0] ?? 'without address'}`))
}

// As the browser of the person would.
async function openLoginPage(url: string): Promise<void> {
  const page = await fetch(url)
  expect(page.status === 200, `the login page answers ${page.status}`)
  await page.text()
}

function bytes(count: number): string {
  return count < 10_000 ? `${count} bytes` : `${(count / 1_000_000).toFixed(2)} MB`
}
