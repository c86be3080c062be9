/** Changes of the SDK, from bytes that the classes of Alibaba's Java server wrote. */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ChangeReader, transactionsOf } from '../../src/client/changes.ts'
import type { ClientChange, RowsChange } from '../../src/client/changes.ts'
import type { ValueOptions } from '../../src/client/values.ts'
import { SluiceError } from '../../src/errors.ts'

const golden = new Map(
  readFileSync(new URL('../fixtures/canal/golden.txt', import.meta.url), 'utf8')
    .trim()
    .split('\n')
    .map((line): [string, Buffer] => {
      const [name, hex] = line.split(' ')
      return [name!, Buffer.from(hex!, 'hex')]
    }),
)
const read = (name: string, options: ValueOptions = {}, redelivered = false): ClientChange => {
  const bytes = golden.get(name)!
  const framed = Buffer.concat([Buffer.alloc(5, 0xff), bytes, Buffer.alloc(5, 0xff)])
  return new ChangeReader(options).read(framed, 5, 5 + bytes.length, redelivered)!
}
const head = { time: expect.any(Number), serverId: 33_097, redelivered: false }

describe('Java bytes', () => {
  it('begin and commit', () => {
    const position = { file: 'binlog.000042', offset: 200 }
    expect(read('begin')).toMatchObject({
      kind: 'begin',
      ...head,
      position,
      threadId: 12,
      xid: '',
      gtid: '',
    })
    expect(read('begin-xa')).toMatchObject({ kind: 'begin', xid: "X'7831',X'',1" })
    expect(read('begin', {}, true)).toMatchObject({ redelivered: true })
    expect(read('end')).toMatchObject({ kind: 'commit', transactionId: '4711', xid: '' })
    expect(read('end-xa')).toMatchObject({
      kind: 'commit',
      transactionId: '0',
      xid: "X'7831',X'',1",
    })
    expect(read('begin-gtid')).toMatchObject({
      gtid: expect.stringMatching(/^3e11fa47-.*:\d+$/),
      executed: expect.stringMatching(/^3e11fa47-.*:1-\d+/),
    })
  })

  it('statements', () => {
    expect(read('ddl')).toMatchObject({
      kind: 'ddl',
      type: 'ALTER',
      database: 'shop',
      table: 'orders',
      sql: expect.stringMatching(/^ALTER TABLE orders/),
    })
    expect(read('statement')).toMatchObject({ kind: 'statement', type: 'INSERT', table: 'orders' })
    expect(read('annotation')).toMatchObject({
      kind: 'annotation',
      type: 'QUERY',
      sql: 'SET INSERT_ID = 4',
    })
    expect(read('query-unparsed')).toMatchObject({
      kind: 'ddl',
      type: 'QUERY',
      database: '',
      table: '',
    })
    expect(read('xa-commit')).toMatchObject({ kind: 'xa', type: 'commit', xid: "X'7831',X'',1" })
    expect(read('xa-rollback')).toMatchObject({
      kind: 'xa',
      type: 'rollback',
      xid: "X'7831',X'',1",
    })
  })

  it('rows', () => {
    const insert = read('insert') as RowsChange
    expect(insert).toMatchObject({
      kind: 'rows',
      type: 'insert',
      database: 'shop',
      table: 'orders',
      tableId: 108n,
    })
    expect(insert.rows).toEqual([
      {
        before: undefined,
        after: { id: 1n, name: 'Grüße', tiny: 127, doc: '{"a": 1}', flags: 3n },
      },
      {
        before: undefined,
        after: { id: 2n ** 64n - 1n, name: '', tiny: 128, doc: null, flags: null },
      },
    ])
    expect(insert.keys).toEqual(['id'])
    const update = read('update') as RowsChange
    expect(update.rows[0]).toMatchObject({
      before: { id: 1n, name: 'x'.repeat(100) },
      after: { id: 1n, name: expect.stringMatching(/^y+$/) },
    })
    // minimal images: what is absent has no entry
    expect(update.rows[2]).toEqual({ before: { id: 2n }, after: { tiny: 255 } })
    const removed = read('delete', { labels: true, json: 'parsed' }) as RowsChange
    expect(removed.rows).toEqual([
      { before: { id: 7n, name: '', tiny: null, doc: [], flags: null }, after: undefined },
    ])
  })

  it('truncated anywhere: WIRE_MALFORMED or another change, nothing else', () => {
    for (const [name, bytes] of golden) {
      if (/^packet|scramble|password/.test(name)) continue
      for (let end = 0; end < bytes.length; end++) {
        try {
          const change = new ChangeReader({}).read(bytes, 0, end, false)
          if (change?.kind === 'rows') void change.rows
        } catch (error) {
          expect(error).toBeInstanceOf(SluiceError)
          expect((error as SluiceError).code).toBe('WIRE_MALFORMED')
        }
      }
    }
  })
})

describe('transactions', () => {
  const names = (...list: string[]): ClientChange[] => list.map((name) => read(name))
  const shape = (...list: string[]): [boolean, boolean, string[]][] =>
    transactionsOf(names(...list)).map((tx) => [
      tx.begun,
      tx.ended,
      tx.changes.map((change) => change.kind),
    ])

  it('are what stands between BEGIN and COMMIT', () => {
    expect(
      shape('begin', 'annotation', 'insert', 'update', 'end', 'begin', 'delete', 'end'),
    ).toEqual([
      [true, true, ['annotation', 'rows', 'rows']],
      [true, true, ['rows']],
    ])
  })
  it('DDL and XA COMMIT are transactions of their own', () => {
    expect(shape('ddl', 'xa-commit', 'begin', 'end', 'ddl')).toEqual([
      [true, true, ['ddl']],
      [true, true, ['xa']],
      [true, true, []],
      [true, true, ['ddl']],
    ])
  })
  it('that batches cut are open at the cut', () => {
    expect(shape('insert', 'end', 'begin', 'update')).toEqual([
      [false, true, ['rows']],
      [true, false, ['rows']],
    ])
    expect(shape('insert')).toEqual([[false, false, ['rows']]])
  })
})
