import type { Change, ServerState } from './records.ts'
import { emptyState } from './records.ts'
import { State } from './state.ts'

/** Where a server keeps its state. Implementations live outside: SQLite, Postgres, a file. */
export interface StateStore {
  /** The last state that was committed; the empty state for a new store. */
  load(): Promise<ServerState>
  /** Writes all changes or none, and resolves only when they would survive a power cut. Rejects when they would not. */
  commit(changes: readonly Change[]): Promise<void>
}

/** A store that forgets everything with its process: for tests and demonstrations. */
export function memoryStore(first: ServerState = emptyState()): StateStore & { readonly state: () => ServerState } {
  let state = first
  return {
    state: () => state,
    load: () => Promise.resolve(state),
    commit: (changes) => {
      state = applyChanges(state, changes)
      return Promise.resolve()
    },
  }
}

/** The state after a commit: pure, gives a new state. */
export function applyChanges(before: ServerState, changes: readonly Change[]): ServerState {
  const state = new State(before)
  let counters = before.counters
  // What nodes leave behind is written down by changes of its own.
  const departed = new Map(before.departed.map((each) => [each.machineKey, each]))
  for (const change of changes) {
    switch (change.type) {
      case 'putUser':
        state.putUser(change.user)
        break
      case 'deleteUser':
        state.deleteUser(change.id)
        break
      case 'putNode':
        state.putNode(change.node)
        break
      case 'deleteNode':
        state.deleteNode(change.id)
        break
      case 'putAuthKey':
        state.putAuthKey(change.authKey)
        break
      case 'deleteAuthKey':
        state.deleteAuthKey(change.id)
        break
      case 'putPolicy':
        state.putPolicy(change.policy)
        break
      case 'deletePolicy':
        state.putPolicy(undefined)
        break
      case 'putCounters':
        counters = change.counters
        break
      case 'putDeparted':
        departed.delete(change.departed.machineKey)
        departed.set(change.departed.machineKey, change.departed)
        break
      case 'deleteDeparted':
        departed.delete(change.machineKey)
        break
    }
  }
  return { ...state.snapshot(), counters, departed: [...departed.values()] }
}
