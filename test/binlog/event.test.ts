/**
 * Event readers on what MySQL 9.7 and 8.0 wrote (fixtures recorded by record.ts), on events no server here writes,
 * composed by hand, and on both of these mutilated.
 */
import { readFileSync } from 'node:fs'
import { zstdDecompressSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  CHECKSUM_BYTES,
  FLAG_IN_USE,
  HEADER_BYTES,
  checksumMatches,
  eventName,
  eventNextPosition,
  eventType,
  eventTypes as t,
  readFormat,
} from '../../src/binlog/reader.ts'
import type { Format } from '../../src/binlog/reader.ts'
import {
  columnTypes,
  readMetadata,
  readTableMap,
  sameTableMap,
  tableMapId,
} from '../../src/binlog/table-map.ts'
import type { TableMap } from '../../src/binlog/table-map.ts'
import { SluiceError } from '../../src/errors.ts'
import { bodyEnd, cut, readers } from './readers.ts'

const fixture = (version: string): Buffer[] =>
  cut(readFileSync(new URL(`../fixtures/events-${version}.bin`, import.meta.url)))
const nine = fixture('9.7')
const eight = fixture('8.0')
const formatOf = (events: Buffer[]): Format => {
  const event = events.find((e) => eventType(e, 0) === t.FORMAT_DESCRIPTION)!
  return readFormat(event, 0, event.length)
}
const format = formatOf(nine)

const read = (event: Buffer): unknown =>
  readers.get(eventType(event, 0))!(event, 0, bodyEnd(event), format)
const of = (events: Buffer[], type: number): unknown[] =>
  events.filter((event) => eventType(event, 0) === type).map(read)
const like = (...objects: object[]): object[] =>
  objects.map((object) => expect.objectContaining(object))

/** An event around a body, with an empty checksum. */
function compose(type: number, ...parts: (Buffer | number[] | string)[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => (Buffer.isBuffer(part) ? part : Buffer.from(part as string))),
  )
  const event = Buffer.concat([Buffer.alloc(HEADER_BYTES), body, Buffer.alloc(CHECKSUM_BYTES)])
  event[4] = type
  event.writeUInt32LE(event.length, 9)
  event.writeUInt32LE(4711, 13)
  return event
}
const u32 = (value: number): number[] => [
  value & 255,
  (value >> 8) & 255,
  (value >> 16) & 255,
  value >>> 24,
]
const u64 = (value: number): number[] => [...u32(value), 0, 0, 0, 0]

/** Of kinds that no server here can be made to write; layouts from the server's source. */
const composed = {
  incident: compose(t.INCIDENT, [1, 0, 5], 'ouch!'),
  context: compose(
    t.TRANSACTION_CONTEXT,
    [36],
    u32(9),
    [1],
    u32(0),
    u32(0),
    u32(0),
    'e'.repeat(36),
  ),
  view: compose(t.VIEW_CHANGE, '17:3', Buffer.alloc(36), u64(5), u32(0)),
  anonymous: compose(t.ANONYMOUS_GTID, [1], Buffer.alloc(24), [2], u64(3), u64(4)),
  heartbeat: compose(t.HEARTBEAT, 'binlog.000007'),
  heartbeat2: compose(
    t.HEARTBEAT_V2,
    [1, 13],
    'binlog.000007',
    [2, 9, 254, 0, 0, 0, 0, 2, 0, 0, 0, 0],
  ),
  stored: compose(t.TRANSACTION_PAYLOAD, [2, 3, 252, 255, 0, 1, 1, 4, 0], 'body'),
  deleteFile: compose(t.DELETE_FILE, u32(7)),
}

describe.each([
  ['9.7', nine],
  ['8.0', eight],
])('what MySQL %s wrote', (version, events) => {
  it('has right checksums, and wrong ones are noticed', () => {
    for (const event of events) {
      expect(checksumMatches(event, 0, event.length)).toBe(true)
      const framed = Buffer.concat([Buffer.alloc(3), event])
      expect(checksumMatches(framed, 3, framed.length)).toBe(true)
      framed[3]! ^= 1
      expect(checksumMatches(framed, 3, framed.length)).toBe(false)
    }
    expect(checksumMatches(events[0]!, 0, 22)).toBe(false)
  })

  it('a format description in use keeps its checksum', () => {
    const event = Buffer.from(events.find((e) => eventType(e, 0) === t.FORMAT_DESCRIPTION)!)
    event[17] = FLAG_IN_USE
    expect(checksumMatches(event, 0, event.length)).toBe(true)
    event[17] = 2
    expect(checksumMatches(event, 0, event.length)).toBe(false)
  })

  it('begins with the format', () => {
    const found = formatOf(events)
    expect(found).toMatchObject({ checksum: 'crc32', checksumBytes: 4 })
    expect(found.serverVersion.startsWith(version)).toBe(true)
    expect(found.postHeader[t.TABLE_MAP]).toBe(8)
    expect(found.postHeader[t.GTID]).toBe(42)
  })

  it('every event is read, wherever it stands', () => {
    for (const event of events) {
      const reader = readers.get(eventType(event, 0))
      expect(reader, eventName(eventType(event, 0))).toBeDefined()
      read(event)
    }
  })

  it('GTIDs carry the clock, the times and the length', () => {
    const [first, second] = of(events, t.GTID) as Record<string, number>[]
    expect(second!.sequenceNumber).toBe(first!.sequenceNumber! + 1)
    expect(second!.lastCommitted).toBe(first!.sequenceNumber)
    expect(Math.abs(second!.originalCommit! - first!.originalCommit!)).toBeLessThan(3600e6)
    expect(second!.immediateCommit).toBe(second!.originalCommit)
    const starts = events.map((e, i) => (eventType(e, 0) === t.GTID ? i : -1)).filter((i) => i >= 0)
    const length = events.slice(starts[1]!, starts[2]).reduce((sum, e) => sum + e.length, 0)
    expect(second!.transactionBytes).toBe(length)
    expect(of(events, t.GTID)).toContainEqual(
      expect.objectContaining({
        gtid: { sid: 'aaaaaaaa-0000-0000-0000-00000000000a', gno: 2n ** 63n - 2n },
      }),
    )
    expect(of(events, t.ANONYMOUS_GTID)).toEqual(like({ gtid: undefined }))
  })

  it('statements come as they were sent', () => {
    const sql = (of(events, t.QUERY) as { sql: string; database: string; sqlMode: number }[]).map(
      (q) => q.sql,
    )
    expect(sql).toContain('BEGIN')
    expect(sql).toContain('COMMIT')
    expect(sql).toContain(`INSERT INTO plain (w) VALUES ('中')`)
    expect(sql.filter((text) => text.startsWith('XA '))).toEqual([
      `XA START X'6162',X'63',7`,
      `XA END X'6162',X'63',7`,
      `XA COMMIT X'6162',X'63',7`,
      `XA START X'78',X'',1`,
      `XA END X'78',X'',1`,
      `XA START X'79',X'',1`,
      `XA END X'79',X'',1`,
      `XA ROLLBACK X'79',X'',1`,
    ])
    expect(of(events, t.XA_PREPARE)).toEqual([
      { onePhase: false, xid: `X'6162',X'63',7` },
      { onePhase: true, xid: `X'78',X'',1` },
      { onePhase: false, xid: `X'79',X'',1` },
    ])
    const [note] = of(events, t.ROWS_QUERY) as string[]
    expect(note).toBe(`INSERT INTO parted VALUES (3,3) /* ${'long '.repeat(60)}中文 */`)
  })

  it('what a statement depends on', () => {
    expect(of(events, t.USER_VAR)).toEqual([
      String.raw`SET @s := 'it\'s \\ 中'`,
      'SET @i := -5',
      'SET @u := 18446744073709551615',
      'SET @d := -1.50',
      'SET @r := 1.5E10',
      'SET @n := NULL',
      `SET @g := '中'`,
    ])
    expect(of(events, t.INTVAR).slice(0, 3)).toEqual([
      'SET INSERT_ID = 1',
      'SET INSERT_ID = 2',
      'SET INSERT_ID = 3',
    ])
    expect(of(events, t.INTVAR)).toContain('SET LAST_INSERT_ID = 3')
    expect(of(events, t.RAND)[0]).toMatch(/^SET SESSION rand_seed1 = \d+ , rand_seed2 = \d+$/)
  })

  it('LOAD DATA', () => {
    const [load] = of(events, t.EXECUTE_LOAD_QUERY) as {
      sql: string
      fileId: number
      nameStart: number
      nameEnd: number
    }[]
    expect(load!.sql).toContain(`LOAD DATA`)
    expect(load!.sql.slice(load!.nameStart, load!.nameEnd)).toBe(
      ` LOCAL INFILE 'short' IGNORE INTO`,
    )
    const [begin] = events.filter((event) => eventType(event, 0) === t.BEGIN_LOAD_QUERY)
    const block = read(begin!) as { fileId: number; start: number; end: number }
    expect(block.fileId).toBe(load!.fileId)
    expect(begin!.toString('latin1', block.start, block.end)).toBe(
      `first\n${'x'.repeat(90)}\n`.repeat(20),
    )
    expect(of(events, t.APPEND_BLOCK)).toEqual(like({ fileId: load!.fileId + 1 }))
  })

  it('a compressed transaction', () => {
    const event = events.find((e) => eventType(e, 0) === t.TRANSACTION_PAYLOAD)!
    const payload = read(event) as { start: number; end: number; uncompressedBytes: number }
    expect(payload).toMatchObject({ compression: 'zstd', end: bodyEnd(event) })
    const unpacked = zstdDecompressSync(event.subarray(payload.start, payload.end))
    expect(payload.uncompressedBytes).toBe(unpacked.length)
    const types = cut(unpacked).map((inner) => eventType(inner, 0))
    expect(types).toEqual([t.QUERY, t.TABLE_MAP, t.WRITE_ROWS, t.XID])
  })

  it('rows', () => {
    const inserts = of(events, t.WRITE_ROWS) as Record<string, unknown>[]
    expect(inserts[0]).toMatchObject({
      kind: 'insert',
      partial: false,
      lastOfStatement: true,
      before: -1,
      width: 26,
    })
    expect(inserts.slice(1, 3)).toEqual(
      like({ partition: 0, lastOfStatement: false }, { partition: 1, lastOfStatement: true }),
    )
    const updates = of(events, t.UPDATE_ROWS) as Record<string, unknown>[]
    expect(updates[0]).toMatchObject({ kind: 'update', partition: -1, sourcePartition: -1 })
    expect(updates[1]).toMatchObject({ partition: 1, sourcePartition: 0 })
    expect(of(events, t.PARTIAL_UPDATE_ROWS)).toEqual(
      like({ kind: 'update', partial: true, width: 3 }),
    )
    expect(of(events, t.DELETE_ROWS)[0]).toMatchObject({ kind: 'delete', after: -1 })
  })

  it('a table map is recognised by its bytes', () => {
    const events_ = events.filter((event) => eventType(event, 0) === t.TABLE_MAP)
    const maps = events_.map((event) => readTableMap(event, 0, bodyEnd(event), format))
    maps.forEach((map, i) =>
      maps.forEach((other, j) => {
        const same = map.table === other.table
        expect(sameTableMap(map, events_[j]!, 0, bodyEnd(events_[j]!), format)).toBe(same)
        expect(tableMapId(events_[i]!, 0, bodyEnd(events_[i]!), format)).toBe(map.tableId)
      }),
    )
  })
})

it('MySQL 9.7: tagged GTIDs', () => {
  const tagged = of(nine, t.GTID_TAGGED) as { gtid: { sid: string; gno: bigint } }[]
  const sid = (of(nine, t.GTID)[0] as { gtid: { sid: string } }).gtid.sid
  expect(tagged.map((event) => event.gtid)).toEqual([
    { sid: `${sid}:later`, gno: 1n },
    { sid: `${sid}:later`, gno: 2n },
    { sid: `${sid}:a_tag`, gno: 1n },
  ])
  expect(of(nine, t.PREVIOUS_GTIDS).at(-1)).toMatch(
    new RegExp(`${sid}:1-\\d+:a_tag:1:later:1-2$|${sid}:1-\\d+:a_tag:1:later:1-2,`),
  )
  expect(tagged[0]).toMatchObject({ transactionBytes: expect.any(Number) })
  const [first, second] = tagged as unknown as Record<string, number>[]
  expect(second!.sequenceNumber).toBe(first!.sequenceNumber! + 1)
})

it('MySQL 8.0: rows in version 1', () => {
  expect(of(eight, t.WRITE_ROWS_V1)).toEqual(like({ kind: 'insert', partition: -1, width: 2 }))
  expect(of(eight, t.UPDATE_ROWS_V1)).toEqual(like({ kind: 'update', width: 2 }))
  expect(of(eight, t.DELETE_ROWS_V1)).toEqual(like({ kind: 'delete', width: 2 }))
})

it('what no server here writes', () => {
  expect(read(composed.incident)).toEqual({ incident: 1, message: 'ouch!' })
  expect(read(composed.context)).toEqual({
    server: 'e'.repeat(36),
    threadId: 9,
    gtidSpecified: true,
  })
  expect(read(composed.view)).toBe('17:3')
  expect(read(composed.anonymous)).toMatchObject({
    gtid: undefined,
    lastCommitted: 3,
    sequenceNumber: 4,
  })
  expect(read(composed.heartbeat)).toEqual({ file: 'binlog.000007', position: 4711 })
  expect(read(composed.heartbeat2)).toEqual({ file: 'binlog.000007', position: 0x200000000 })
  expect(read(composed.stored)).toMatchObject({ compression: 'none', uncompressedBytes: 4 })
  expect(read(composed.deleteFile)).toMatchObject({ fileId: 7 })
})

it('an error says which event, where, and what was expected', () => {
  const event = compose(t.XID, [1, 2])
  expect(() => read(event)).toThrow(
    'XID event ending at log position 4711: expected 8 bytes of the transaction id, 2 are left (at byte 19 of 21)',
  )
})

describe('optional metadata', () => {
  const map = (events: Buffer[], table: string): TableMap => {
    for (const event of events) {
      if (eventType(event, 0) !== t.TABLE_MAP) continue
      const found = readTableMap(event, 0, bodyEnd(event), format)
      if (found.table === table) return found
    }
    throw new Error(`no table map of ${table}`)
  }

  it.each([
    ['9.7', nine],
    ['8.0', eight],
  ])('of MySQL %s', (_, events) => {
    const wide = map(events, 'wide')
    const { columns, full } = readMetadata(wide)
    expect(full).toBe(true)
    expect(columns.map((c) => c.name).join('')).toBe(
      'idaybcdefghijklmnopqrstuvwxz'.replace('j', ''),
    )
    const named = (test: (c: (typeof columns)[number]) => unknown): string =>
      columns
        .filter(test)
        .map((c) => c.name)
        .join(' ')
    expect(named((c) => c.unsigned === true)).toBe('id y q u')
    expect(named((c) => c.unsigned === false)).toBe('a l r s t v')
    expect(named((c) => c.key)).toBe('id b')
    expect(columns[3]).toMatchObject({ collation: 28, keyPrefix: 3 })
    expect(named((c) => c.collation === 63)).toBe('h k')
    expect(named((c) => c.collation === 255)).toBe('c e i')
    expect(columns.at(-1)!.collation).toBe(46)
    expect(columns[5]!.members).toEqual([Buffer.from('x'), Buffer.from([0xff])])
    expect(columns[6]!.members).toEqual([Buffer.from('p'), Buffer.from('q')])
    expect(columns.map((c) => c.geometry).filter((g) => g >= 0)).toEqual([1, 0])
    expect(wide.types[5]).toBe(columnTypes.STRING)
    expect(wide.meta[5]! >> 8).toBe(columnTypes.ENUM)
    expect(wide.meta[12]).toBe((10 << 8) | 2)
    expect(wide.meta[13]).toBe((1 << 8) | 2)
    expect(wide.nullable[0]! & 0b1111).toBe(0b0110)
  })

  it('of vectors', () => {
    expect(readMetadata(map(nine, 'vec')).columns.map((c) => c.dimension)).toEqual([0, 3, 2000])
  })

  it('fields of tomorrow are passed over, fields that do not fit are refused', () => {
    const wide = map(nine, 'wide')
    const changed = (optional: number[]): unknown =>
      readMetadata({ ...wide, optional: Buffer.from(optional) })
    expect(changed([99, 2, 1, 2])).toMatchObject({ full: false })
    for (const bad of [
      [1, 1, 0],
      [1, 9],
      [4, 2, 1, 65],
      [8, 1, 26],
      [2, 3, 8, 9, 1],
      [12, 5, 0, 0, 0, 0, 0],
    ])
      expect(() => changed(bad)).toThrow(SluiceError)
  })
})

describe('mutilated', () => {
  const events = [...nine, ...eight, ...Object.values(composed)]

  /** What reading gives: "value", or the code of the error, or anything else that went wrong. */
  const outcome = (
    reader: (...args: [Buffer, number, number, Format]) => unknown,
    bytes: Buffer,
    end: number,
  ) => {
    try {
      return { value: reader(bytes, 0, end, format) }
    } catch (error) {
      return error instanceof SluiceError ? error.code : String(error)
    }
  }

  it('cut off at every byte: a value or EVENT_MALFORMED, and no byte beyond is looked at', () => {
    const seen = new Set<string>()
    for (const event of events) {
      const name = `${eventType(event, 0)} ${event.length}`
      if (seen.has(name)) continue
      seen.add(name)
      const reader = readers.get(eventType(event, 0))!
      for (let end = 0; end < bodyEnd(event); end++) {
        const bounded = outcome(reader, event, end)
        const alone = outcome(reader, Buffer.from(event.subarray(0, end)), end)
        if (typeof bounded === 'string') expect(bounded).toBe('EVENT_MALFORMED')
        expect(alone).toEqual(bounded)
      }
    }
  })

  it('bits flipped: a value no larger than the event allows, or EVENT_MALFORMED', () => {
    let malformed = 0
    fc.assert(
      fc.property(
        fc.nat(events.length - 1),
        fc.array(fc.nat(), { minLength: 1, maxLength: 4 }),
        fc.option(fc.constantFrom(0, 0xff, 0xfd, 0xfe)),
        (index, flips, fill) => {
          const event = Buffer.from(events[index]!)
          const reader = readers.get(eventType(event, 0))!
          for (const flip of flips) {
            const at = HEADER_BYTES + ((flip >> 3) % (event.length - HEADER_BYTES))
            event[at] = fill ?? event[at]! ^ (1 << (flip & 7))
          }
          const result = outcome(reader, event, bodyEnd(event))
          if (typeof result === 'string') {
            malformed++
            expect(result).toBe('EVENT_MALFORMED')
          } else expect(weight(result.value)).toBeLessThan(event.length * 200 + 1000)
        },
      ),
      { numRuns: 20_000 },
    )
    expect(malformed).toBeGreaterThan(1000)
  })

  it('read as another type: a value or EVENT_MALFORMED', () => {
    for (const event of events)
      for (const [type, reader] of readers) {
        const other = Buffer.from(event)
        other[4] = type
        const result = outcome(reader, other, bodyEnd(event))
        if (typeof result === 'string') expect(result).toBe('EVENT_MALFORMED')
      }
  })

  it('a header that is not there', () => {
    const event = compose(t.XID, u64(1))
    expect(() => readers.get(t.XID)!(event, 20, 30, format)).toThrow('XID: expected 19 bytes')
    expect(() => readers.get(t.XID)!(event, 0, 500, format)).toThrow(SluiceError)
    expect(eventNextPosition(event, 0)).toBe(4711)
  })
})

/** Roughly the memory a value takes. */
function weight(value: unknown): number {
  if (value instanceof Uint8Array || value instanceof Uint16Array) return value.byteLength
  if (typeof value === 'string') return value.length
  if (Array.isArray(value)) return value.reduce((sum: number, item) => sum + 8 + weight(item), 0)
  if (value !== null && typeof value === 'object')
    return Object.values(value).reduce((sum: number, item) => sum + 8 + weight(item), 0)
  return 8
}
