/**
 * A process for the crash tests: opens the state file given, reads for one client without end, acks, and prints
 * "id offset" once the ack is durable. To be killed.
 */
import { State } from '../../src/store/state.ts'
import { Store } from '../../src/store/store.ts'
import { Log } from './log.ts'

const log = new Log()
for (let i = 0; i < 20_000; i++) log.write(['t0'])
const state = State.open(process.argv[2]!)
const cuts = { part: 10, empties: false }
const store = new Store({
  windowBytes: 100_000,
  catchUpReaders: 1,
  catchUp: (from, signal) => log.read(from, signal, cuts),
  state,
  origin: log.origin,
  log: { info: () => {}, warn: () => {} },
})
const { signal } = new AbortController()

async function pump(): Promise<void> {
  for await (const tx of log.read(store.resume, signal, cuts)) await store.append(tx, signal)
}
async function drain(): Promise<void> {
  const cursor = store.subscribe('c')
  for (;;) {
    const batch = await cursor.get({ changes: 3, bytes: 1000, waitMs: Infinity }, signal)
    if (!batch) throw new Error('a get without limit came back empty')
    batch.release()
    await cursor.ack(batch.id)
    process.stdout.write(`${batch.id} ${log.doneAt(batch.end)}\n`)
  }
}
process.stdout.write('ready\n')
await Promise.all([pump(), drain()])
