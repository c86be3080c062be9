/** Both ways of writing rows as JSON, for the file, HTTP and Kafka: all of an event at once (src/sinks/lines/), and row by row. */
import type { RowsChange, Table, Transaction } from '../../src/change.ts'
import { SluiceError } from '../../src/errors.ts'
import { Out } from '../../src/out.ts'
import { formatOptions } from '../../src/sinks/formats/format.ts'
import { formats } from '../../src/sinks/formats/index.ts'
import { MessageWriter, type HashRoute } from '../../src/sinks/formats/messages.ts'
import { EventWriter } from '../../src/sinks/http/event.ts'
import { options as kafkaOptions } from '../../src/sinks/kafka/options.ts'
import type { Place } from '../../src/sinks/kafka/producer.ts'
import { Router } from '../../src/sinks/kafka/route.ts'
import type { Written } from '../../src/sinks/lines/lines.ts'
import { SinkBatch, type BatchFacts } from '../../src/sinks/shape/batch.ts'
import type { JsonOptions } from '../../src/sinks/shape/json.ts'
import { PlainWriter } from '../../src/sinks/shape/plain.ts'
import { plainTarget, type SinkRow, type TargetTable } from '../../src/sinks/shape/row.ts'

/** Each row, a character for a byte, with its hash; or the error. */
type Shown = readonly string[] | string
export interface BothLines {
  readonly slow: Shown
  /** undefined: refused. */
  readonly quick: Shown | undefined
}
export interface LinesOptions extends JsonOptions {
  readonly tx: Transaction
  readonly target?: (table: Table) => TargetTable
}

interface Way {
  readonly events: boolean // with a hash for each, and in halves where the key changes
  one(row: SinkRow, out: Out): number
  all(first: SinkRow): Written | undefined
}

export function plainLines(change: RowsChange, options: LinesOptions): BothLines {
  const writer = new PlainWriter(options)
  return both(change, options, {
    events: false,
    one(row, out) {
      writer.row(row, out)
      out.ascii('\n')
      return 0
    },
    all: (first) => writer.lines(first),
  })
}
export function eventLines(change: RowsChange, options: LinesOptions): BothLines {
  const writer = new EventWriter('shop "1"', options)
  return both(change, options, {
    events: true,
    one(row, out) {
      const hash = writer.structured(row, out)
      out.ascii(',')
      return hash
    },
    all: (first) => writer.all(first),
  })
}

/** FlatMessages for the partitions of a topic, with everything that is known of them. */
export function flatMessages(change: RowsChange, options: LinesOptions): BothLines {
  const router = new Router(
    kafkaOptions.parse({ brokers: ['none:9092'], topic: 'all', partition: 'key' }),
    false,
  )
  router.know('all', 3)
  let quick = false
  const hashRoute: HashRoute<Place> = {
    hashed: (table) => router.hashed(table),
    byHash(table) {
      quick = true
      return router.byHash(table)
    },
  }
  const shownBy = (route: HashRoute<Place> | undefined): Shown =>
    caught(() => {
      const writer = new MessageWriter<Place>({
        format: formats['canal-json'],
        context: { instance: 'shop', server: '', options: formatOptions.parse({}) },
        route: router.route,
        hashRoute: route,
        headers: true,
        tombstones: false,
        chunkBytes: 1000,
      })
      const batch = new SinkBatch(factsOf(change, options))
      // twice, for what one event left must not be found in the next
      return [...writer.chunks(batch, 1), ...writer.chunks(batch, 2)].flatMap(({ messages }) =>
        messages.map(({ place, first, last, version, bytes, headers, value }) => {
          const about = { place, first, last, version, bytes, headers: headers.map(String) }
          return `${JSON.stringify(about)} ${value!.toString('latin1')}`
        }),
      )
    })
  const slow = shownBy(undefined)
  const all = shownBy(hashRoute)
  return { slow, quick: quick ? all : undefined }
}

function factsOf(change: RowsChange, { tx, target = plainTarget }: LinesOptions): BatchFacts {
  const position = { epoch: 1, server: '', file: tx.file, offset: 4, skip: 0, timestamp: 0 }
  const place = { ...position, gtids: undefined }
  return {
    slices: [{ tx, changes: [change] }],
    start: place,
    end: place,
    highest: '',
    redelivered: false,
    target,
  }
}
function both(change: RowsChange, options: LinesOptions, way: Way): BothLines {
  const facts = factsOf(change, options)
  let quick: string[] | undefined
  const walk = new SinkBatch(facts).rows(way.events, (first) => {
    const written = way.all(first)
    if (written === undefined) return -1
    quick = shown(written, way.events)
    return written.rows
  })
  const slow = caught(() => {
    const rows: string[] = []
    const out = new Out(64)
    for (const row of new SinkBatch(facts).rows(way.events)) {
      out.reset()
      const hash = way.one(row, out)
      rows.push(`${out.buf.toString('latin1', 0, out.at)} ${hash}`)
    }
    return rows
  })
  caught(() => {
    walk.next()
    return []
  })
  return { slow, quick }
}

function shown({ rows, memory, from, words, ends, ...of }: Written, hashed: boolean): string[] {
  return Array.from({ length: rows }, (_, i) => {
    const start = i === 0 ? from : words[ends + i - 1]!
    const hash = hashed ? words[of.hashes + i] : 0
    return `${memory.toString('latin1', start, words[ends + i])} ${hash}`
  })
}
function caught(work: () => string[]): Shown {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error
    return `${error.code}: ${error.message}`
  }
}
