/**
 * The ceiling of the file sink: its own writer (rotation at 100 MiB, one sync for each confirmed batch, two batches under way)
 * is given lines that were made beforehand, one for each row and as long as the sink's, as many in a batch as the sink's
 * batches of 1 MiB of binlog have of this table. Copying a line into the buffer that is written is timed, for every writer of
 * rows has it; batches are synced as the sink syncs them, for that is its promise. (Megabytes written from memory without a
 * sync, as it was here before, measure the page cache.)
 */
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { Ahead, WRITES_MAX } from '../../src/sinks/file/ahead.ts'
import { RotatingFile } from '../../src/sinks/file/rotating.ts'
import { narrow, PREPARED, timed, url, version } from './common.ts'

const BATCH = 5000
const line = (n: number): object => ({
  kind: 'row',
  op: 'insert',
  database: 'bench',
  table: 'narrow',
  key: { id: n },
  before: null,
  after: narrow(n),
  version: version(n),
  id: `3e11fa47-71ca-11e1-9e33-c80aa9429562:17/${n >> 5}.${n & 31}`,
  position: 'binlog.000002:1234567',
  ts: 1767225600000,
})
const lines = Array.from({ length: PREPARED }, (_, n) =>
  Buffer.from(`${JSON.stringify(line(n))}\n`),
)
const file = await RotatingFile.open({
  path: fileURLToPath(url),
  bytes: 100 * 1024 * 1024,
  everyMs: 0,
  gzip: false,
  keep: 0,
  log: pino({ level: 'silent' }),
})
const ahead = new Ahead(file)
const { signal } = new AbortController()

async function batch(from: number, to: number): Promise<void> {
  await ahead.run(signal, async (write) => {
    for (let n = from; n < Math.min(to, from + BATCH); n++) {
      const bytes = lines[n % PREPARED]!
      write.out.bytes(bytes, 0, bytes.length)
      if (write.isFull) await write.full()
    }
  })
}

await timed(async (begin, end) => {
  let next = begin
  const worker = async (): Promise<void> => {
    while (next < end) {
      const from = next
      next += BATCH
      await batch(from, end)
    }
  }
  await Promise.all(Array.from({ length: WRITES_MAX }, worker))
})
