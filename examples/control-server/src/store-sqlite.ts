import { closeSync, fdatasync, fsyncSync, mkdirSync, openSync, realpathSync } from 'node:fs'
import path from 'node:path'
import Database from 'libsql'
import type { AuthKeyRecord, Change, Counters, DepartedRecord, NodeRecord, PolicyRecord, ServerState, UserRecord } from '@meshwright/control-server'
import { Failure, reasonOf } from './failure.ts'

/** Each step leads from the schema before it to the next; never change one that has been released. */
const MIGRATIONS: readonly string[] = [
  `CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, record TEXT NOT NULL) STRICT;
   CREATE TABLE nodes (id INTEGER PRIMARY KEY, node_key TEXT NOT NULL, machine_key TEXT NOT NULL, record TEXT NOT NULL) STRICT;
   CREATE INDEX nodes_by_key ON nodes (node_key);
   CREATE TABLE auth_keys (id INTEGER PRIMARY KEY, prefix TEXT NOT NULL, record TEXT NOT NULL) STRICT;
   CREATE TABLE policies (id INTEGER PRIMARY KEY, text TEXT NOT NULL, updated_at INTEGER NOT NULL) STRICT;
   CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;`,
  // What devices whose node was deleted left behind; one that is written again becomes the newest.
  `CREATE TABLE departed (id INTEGER PRIMARY KEY, machine_key TEXT NOT NULL UNIQUE, record TEXT NOT NULL) STRICT;`,
]

/** Memory and disk may differ: the program must end, and start again from what the disk holds. */
export class StoreBroken extends Error {}

/**
 * The state of a server in a SQLite file. A commit is one transaction, and on the disk when its promise resolves.
 *
 * With a write-ahead log the waiting for the disk is ours: `synchronous=NORMAL` keeps the file whole whatever happens, but lets the last
 * transactions be lost by a power cut; `fdatasync` of the log, by a thread beside this one, is what SQLite would have done under `FULL`
 * while everything else stood still. Without one, SQLite does it itself.
 */
export class SqliteStore {
  readonly #database: Database.Database
  readonly #lock: Database.Database
  readonly #statements = new Map<string, Database.Statement>()
  /** The write-ahead log; `undefined`: SQLite waits for the disk. */
  #log: number | undefined
  #broken: Error | undefined

  /** @throws Failure when the file cannot be opened, is no database, is newer than this program, or is another server's */
  constructor(file: string, options: { readonly writeAheadLog: boolean; readonly walAutocheckpoint: number }) {
    try {
      mkdirSync(path.dirname(path.resolve(file)), { recursive: true, mode: 0o700 })
      closeSync(openSync(file, 'a', 0o600)) // made by us, so that nobody else can read it
    } catch (error) {
      throw cannotOpen(file, error)
    }
    this.#lock = lockFile(file)
    try {
      this.#database = new Database(file, { timeout: 5000 })
      this.#database.exec(`PRAGMA journal_mode=${options.writeAheadLog ? 'WAL' : 'DELETE'}`)
      this.#database.exec(`PRAGMA wal_autocheckpoint=${options.walAutocheckpoint}`)
      this.#database.exec(`PRAGMA synchronous=${options.writeAheadLog ? 'NORMAL' : 'FULL'}`)
      this.#database.exec('PRAGMA foreign_keys=ON')
    } catch (error) {
      this.#lock.close()
      throw cannotOpen(file, error)
    }
    try {
      this.#migrate(file)
      if (options.writeAheadLog) this.#openLog(file)
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** The last state that was committed. */
  load(): ServerState {
    const records = <T>(table: string): T[] => this.#database.prepare(`SELECT record FROM ${table} ORDER BY id`).all().map((row) => JSON.parse(column(row, 'record')) as T)
    const counters = new Map(this.#database.prepare('SELECT name, value FROM counters').all().map((row) => [column(row, 'name'), Number(column(row, 'value'))]))
    const policy = this.#database.prepare('SELECT text, updated_at FROM policies ORDER BY id DESC LIMIT 1').get()
    return {
      users: records<UserRecord>('users'),
      nodes: records<NodeRecord>('nodes'),
      authKeys: records<AuthKeyRecord>('auth_keys'),
      departed: records<DepartedRecord>('departed'),
      policy: policy === undefined ? undefined : { text: column(policy, 'text'), updatedAt: Number(column(policy, 'updated_at')) },
      counters: { nextUserId: counters.get('nextUserId') ?? 1, nextNodeId: counters.get('nextNodeId') ?? 1, nextAuthKeyId: counters.get('nextAuthKeyId') ?? 1 },
    }
  }

  /**
   * Writes all changes or none. One at a time.
   * @throws when they could not be written. When the disk took them and then failed, nobody knows what it holds: from then on everything throws
   */
  async commit(changes: readonly Change[]): Promise<void> {
    if (this.#broken !== undefined) throw this.#broken
    this.#database.exec('BEGIN IMMEDIATE')
    try {
      for (const change of changes) this.#apply(change)
      this.#database.exec('COMMIT')
    } catch (error) {
      if (this.#database.inTransaction) this.#database.exec('ROLLBACK')
      throw error
    }
    const log = this.#log
    if (log === undefined) return
    await new Promise<void>((resolve, reject) => {
      fdatasync(log, (error) => {
        if (error === null) return resolve()
        this.#broken = new StoreBroken(`the disk failed while it was written to (${error.message}): what it holds is not known`, { cause: error })
        reject(this.#broken)
      })
    })
  }

  /** Whether the database answers. */
  ping(): boolean {
    try {
      this.#database.prepare('SELECT 1').get()
      return true
    } catch {
      return false // the caller shows it: that is what was asked
    }
  }

  close(): void {
    this.#statements.clear()
    this.#database.close()
    this.#lock.close()
    if (this.#log !== undefined) closeSync(this.#log)
    this.#log = undefined
  }

  /** A transaction that changes nothing makes the log file, which then stays until the database is closed. */
  #openLog(file: string): void {
    try {
      const version = Number(column(this.#database.prepare('PRAGMA user_version').get(), 'user_version'))
      this.#database.exec(`BEGIN IMMEDIATE; PRAGMA user_version=${version}; COMMIT`)
      const real = realpathSync(file) // SQLite keeps the log beside the file itself, not beside a link to it
      this.#log = openSync(`${real}-wal`, 'r+')
      const folder = openSync(path.dirname(real), 'r')
      fsyncSync(folder) // that the file exists must survive as well
      closeSync(folder)
    } catch (error) {
      throw new Failure(`cannot write to the database ${file}: ${reasonOf(error)}`, { remedy: 'check its owner and the free space of the disk', cause: error })
    }
  }

  #apply(change: Change): void {
    switch (change.type) {
      case 'putUser':
        return this.#run('INSERT OR REPLACE INTO users (id, name, record) VALUES (?, ?, ?)', change.user.id, change.user.name, JSON.stringify(change.user))
      case 'deleteUser':
        return this.#run('DELETE FROM users WHERE id = ?', change.id)
      case 'putNode': {
        const { node } = change
        return this.#run('INSERT OR REPLACE INTO nodes (id, node_key, machine_key, record) VALUES (?, ?, ?, ?)', node.id, node.nodeKey, node.machineKey, JSON.stringify(node))
      }
      case 'deleteNode':
        return this.#run('DELETE FROM nodes WHERE id = ?', change.id)
      case 'putAuthKey':
        return this.#run('INSERT OR REPLACE INTO auth_keys (id, prefix, record) VALUES (?, ?, ?)', change.authKey.id, change.authKey.prefix, JSON.stringify(change.authKey))
      case 'deleteAuthKey':
        return this.#run('DELETE FROM auth_keys WHERE id = ?', change.id)
      case 'putPolicy':
        return this.#putPolicy(change.policy)
      case 'deletePolicy':
        return this.#run('DELETE FROM policies')
      case 'putCounters':
        return this.#putCounters(change.counters)
      case 'putDeparted':
        return this.#run('INSERT OR REPLACE INTO departed (machine_key, record) VALUES (?, ?)', change.departed.machineKey, JSON.stringify(change.departed))
      case 'deleteDeparted':
        return this.#run('DELETE FROM departed WHERE machine_key = ?', change.machineKey)
    }
  }

  #putPolicy(policy: PolicyRecord): void {
    this.#run('INSERT INTO policies (text, updated_at) VALUES (?, ?)', policy.text, policy.updatedAt)
    // Old policies stay for a while, for who wants to look back.
    this.#run('DELETE FROM policies WHERE id NOT IN (SELECT id FROM policies ORDER BY id DESC LIMIT 50)')
  }

  #putCounters(counters: Counters): void {
    for (const [name, value] of Object.entries(counters)) this.#run('INSERT OR REPLACE INTO counters (name, value) VALUES (?, ?)', name, value)
  }

  #run(sql: string, ...parameters: readonly (string | number)[]): void {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#database.prepare(sql)
      this.#statements.set(sql, statement)
    }
    statement.run(...parameters)
  }

  #migrate(file: string): void {
    let version: number
    try {
      version = Number(column(this.#database.prepare('PRAGMA user_version').get(), 'user_version'))
    } catch (error) {
      throw new Failure(`${file} is not a database of this program: ${reasonOf(error)}`, { remedy: 'name another file as database.sqlite.path; this one is left as it is', cause: error })
    }
    if (version > MIGRATIONS.length) {
      throw new Failure(`the database ${file} was written by a newer version of this program`, { remedy: 'install that version again; nothing was changed' })
    }
    for (const [step, sql] of MIGRATIONS.entries()) {
      if (step < version) continue
      this.#database.exec('BEGIN IMMEDIATE')
      this.#database.exec(sql)
      this.#database.exec(`PRAGMA user_version=${step + 1}`)
      this.#database.exec('COMMIT')
    }
  }
}

/** How long a server that is being restarted may need to let go of its database. */
const LOCK_WAIT_MS = 1000

/**
 * Keeps every other server away from a database, as long as this process lives: a server answers out of its memory, so two of one file would
 * each write over what the other has acknowledged. The lock is on a neighbour, so that the database itself can be read and backed up.
 */
function lockFile(file: string): Database.Database {
  const name = `${realpathSync(file)}.lock`
  let lock: Database.Database | undefined
  try {
    closeSync(openSync(name, 'a', 0o600))
    lock = new Database(name, { timeout: LOCK_WAIT_MS })
    lock.exec('PRAGMA journal_mode=MEMORY') // nothing is ever written
    lock.exec('BEGIN EXCLUSIVE')
    return lock
  } catch (error) {
    lock?.close()
    if (/locked|busy/i.test(reasonOf(error))) throw new Failure(`another server uses the database ${file}`, { remedy: 'stop it first, or name another file as database.sqlite.path', cause: error })
    throw cannotOpen(file, error)
  }
}

function cannotOpen(file: string, error: unknown): Failure {
  return new Failure(`cannot open the database ${file}: ${reasonOf(error)}`, { remedy: 'check database.sqlite.path, its owner and the free space of the disk', cause: error })
}

function column(row: unknown, name: string): string {
  if (typeof row !== 'object' || row === null) throw new Error(`the database gave no row for ${name}`)
  return String(Object.getOwnPropertyDescriptor(row, name)?.value)
}
