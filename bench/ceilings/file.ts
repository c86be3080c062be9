/**
 * The ceiling of the file sink: node:fs is given lines that were made beforehand, one for each row and as long as the sink's,
 * as many in a batch as the sink's batches of 1 MiB of binlog have of this table. Each batch is written and brought to disk
 * before the next one is written, for confirming only what is on disk is the sink's promise; the next one is copied together
 * meanwhile, and that is timed, for every writer of rows has it. (Megabytes written from memory without a sync measure the
 * page cache.)
 */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
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
const { O_WRONLY, O_CREAT, O_APPEND } = constants
const file = await open(fileURLToPath(url), O_WRONLY | O_CREAT | O_APPEND, 0o640)
const room = Math.max(...lines.map(({ length }) => length)) * BATCH
let [filling, written] = [Buffer.allocUnsafeSlow(room), Buffer.allocUnsafeSlow(room)]

function fill(from: number, to: number): Buffer {
  let at = 0
  for (let n = from; n < to; n++) at += lines[n % PREPARED]!.copy(filling, at)
  return filling.subarray(0, at)
}
async function bring(batch: Buffer): Promise<void> {
  await file.writev([batch])
  await file.datasync()
}

await timed(async (begin, end) => {
  let under = Promise.resolve()
  for (let from = begin; from < end; from += BATCH) {
    const batch = fill(from, Math.min(end, from + BATCH))
    await under
    under = bring(batch)
    ;[filling, written] = [written, filling]
  }
  await under
})
