/** Transactions out of a small binlog, a folder for a retained log, and what is read from it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { advance, type Position, type Transaction } from '../../src/change.ts'
import { everyColumn, everything } from '../../src/filter.ts'
import { GtidSet } from '../../src/gtid.ts'
import { Segments, type ViewOptions } from '../../src/retained/log.ts'
import { Writer, type Limits } from '../../src/retained/writer.ts'
import {
  collect,
  describeTransaction,
  LogWriter,
  packets,
  readChunks,
  START,
  type Described,
} from '../sources/fixture.ts'

export const never = new AbortController().signal
export const view: ViewOptions = {
  zone: undefined,
  columns: everyColumn,
  filter: everything,
  filterText: 'all',
}
export const limits: Limits = { maxBytes: 2 ** 30, maxAgeMs: 0, segmentBytes: 2 ** 20 }

export interface Made {
  readonly start: Position
  readonly all: readonly Transaction[]
  readonly described: readonly Described[]
  /** The position before each of them, and after the last. */
  readonly places: readonly Position[]
}
/** `count` transactions, among them large ones in parts, statements, filtered ones, XA and a new file. */
export async function make(count: number, gtids: boolean): Promise<Made> {
  const log = new LogWriter().start()
  for (let i = 0; i < count; i++) {
    if (i % 11 === 3) log.transaction('noise', 1, 50)
    if (i % 17 === 5) log.gtid().query(`create table app.t${i} (a int)`)
    else if (i % 13 === 7) log.transaction('big', 40, 2000)
    else if (i % 19 === 9) {
      const id = `X'${String(i).padStart(4, '0')}'`
      log
        .gtid()
        .query(`XA START ${id},X'',1`)
        .tableMap(1, 'a')
        .rows(1, 20)
        .query(`XA END ${id},X'',1`)
      log.event(38, Buffer.from(`00010000000200000000000000${String(i).padStart(4, '0')}`, 'hex'))
      log.gtid().query(`XA COMMIT ${id},X'',1`)
    } else log.transaction(`t${i % 5}`, 1 + (i % 3), 20 + i)
    log.seconds++
    if (i === count >> 1) log.rotate('binlog.000002', 4, false).rotate('binlog.000002').format()
  }
  const start = { ...START, gtids: gtids ? new GtidSet() : undefined }
  const all: Transaction[] = []
  const options = {
    from: start,
    partBytes: 16 * 1024,
    filter: (_: string, table: string) => table !== 'noise',
  }
  for await (const tx of readChunks([packets(log.events)], options)) all.push(tx)
  const places = [start as Position]
  for (const tx of all) places.push(advance(places.at(-1)!, tx))
  return { start, all, described: all.map(describeTransaction), places }
}

export class Folder {
  readonly dir = mkdtempSync(join(tmpdir(), 'sluice-retained-'))
  readonly warnings: string[] = []
  failures = 0
  open(more: Partial<Limits> = {}): Writer {
    return new Writer(this.dir, {
      instance: 'orders',
      filter: 'all',
      limits: { ...limits, ...more },
      log: { info: () => {}, warn: (_, text) => this.warnings.push(text) },
      failed: () => this.failures++,
    })
  }
  /** Everything of `made` from `from` on, in a log that is closed. */
  async fill({ start, all }: Made, more: Partial<Limits> = {}, every = all.length): Promise<void> {
    const writer = this.open(more)
    await writer.begin(writer.end ?? start, 'UTC')
    for (const [i, tx] of all.entries()) {
      await writer.append(tx)
      // a pause, so that there are many frames
      if (i % every === every - 1) await new Promise((resolve) => setTimeout(resolve, 110))
    }
    await writer.close()
  }
  look(): Segments {
    return Segments.look(this.dir)
  }
  read(from: Position): Promise<Described[]> {
    return collect(this.look().read(from, view, never))
  }
  [Symbol.dispose](): void {
    rmSync(this.dir, { recursive: true })
  }
}
