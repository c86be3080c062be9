import { createHash, createHmac } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { AFTER, BEFORE, type RowsChange } from '../../../src/change.ts'
import { commonSchema } from '../../../src/sinks/runner/options.ts'
import { SinkBatch } from '../../../src/sinks/shape/batch.ts'
import { compileMapping } from '../../../src/sinks/shape/mapping.ts'
import type { SinkRow } from '../../../src/sinks/shape/row.ts'
import { NO_VERSION } from '../../../src/sinks/shape/version.ts'
import { column, rowsOf, tableOf, transactionOf } from '../../server/changes.ts'

const users = tableOf('shop', 'users', [
  column(0, 'id', 3, 'int', { key: true, nullable: false }),
  column(1, 'Email', 15, 'varchar(99)'),
  column(2, 'phone', 15, 'varchar(99)'),
  column(3, 'city', 15, 'varchar(99)'),
])
const rules = (tables: object[]) => commonSchema.parse({ tables }).tables

/** Every row, each column as name=before→after. */
function mapped(change: RowsChange, tables: object[]): string[] {
  const tx = transactionOf(4, [change])
  tx.slab?.release()
  const position = {
    epoch: 1,
    server: '',
    file: '',
    offset: 4,
    skip: 0,
    gtids: undefined,
    timestamp: 0,
  }
  const batch = new SinkBatch({
    slices: [{ tx, changes: [change] }],
    start: position,
    end: position,
    highest: NO_VERSION,
    redelivered: false,
    target: compileMapping(rules(tables), 'sinks.x'),
  })
  const show = (row: SinkRow, side: 0 | 1, c: SinkRow['table']['columns'][number]): string => {
    const text = row.string(side, c)
    return text === undefined ? '-' : text === null ? 'NULL' : text
  }
  return Array.from(batch.rows(true), (row) => {
    const columns = row.table.columns.map(
      (c) =>
        `${c.key ? '*' : ''}${c.name}=${show(row, BEFORE, c)}→${show(row, AFTER, c)}${row.op === 'update' && row.changed(c) ? '!' : ''}`,
    )
    return `${row.op} ${columns.join(' ')}`
  })
}
const insert = rowsOf('insert', [{ after: ['1', 'a@b.c', null, 'Köln😀x'] }], { table: users })
const update = rowsOf(
  'update',
  [{ before: ['1', 'a', '5', 'x'], after: ['1', 'b', '5', undefined] }],
  { table: users },
)
const fail = (table: object) => () => mapped(insert, [{ match: 'shop\\.users', ...table }])

describe('a mapping', () => {
  test('leaves alone what no rule is for; the first rule that matches counts', () => {
    const tables = [
      { match: 'shop\\.orders', columns: { include: ['nothing'] } },
      { match: 'shop\\..*', columns: { include: ['id'] } },
      { match: '.*\\.users', columns: { include: ['city'] }, key: ['city'] },
    ]
    expect(mapped(insert, tables)).toEqual(['insert *id=-→1'])
    expect(mapped(insert, [])).toEqual(['insert *id=-→1 Email=-→a@b.c phone=-→NULL city=-→Köln😀x'])
  })
  test('leaves out, renames, adds constants and computed columns', () => {
    const [row] = mapped(insert, [
      {
        match: 'shop\\.users',
        columns: { exclude: ['PHONE'] },
        rename: { email: 'mail' },
        constants: { source: 'shop' },
        computed: { who: '{database}/{Email}/{phone}' },
      },
    ])
    expect(row).toBe('insert *id=-→1 mail=-→a@b.c city=-→Köln😀x source=-→shop who=-→shop/a@b.c/')
  })
  test('hides values, and keeps NULL and absence', () => {
    const mask = {
      Email: 'hash',
      phone: 'redact',
      city: { truncate: 5 },
      id: { hash: { secret: 's' } },
    }
    const hash = (text: string) => createHash('sha256').update(text).digest('hex')
    const hmac = (text: string) => createHmac('sha256', 's').update(text).digest('hex')
    expect(mapped(insert, [{ match: '.*', mask }])).toEqual([
      `insert *id=-→${hmac('1')} Email=-→${hash('a@b.c')} phone=-→NULL city=-→Köln😀`,
    ])
    expect(mapped(update, [{ match: '.*', mask }])).toEqual([
      `update *id=${hmac('1')}→${hmac('1')} Email=${hash('a')}→${hash('b')}! phone=***→*** city=x→-!`,
    ])
  })
  test('knows whether a computed column changed, and that it is absent with what it is made of', () => {
    const computed = { both: '{id}{Email}', place: '{city}' }
    const [row] = mapped(update, [{ match: '.*', columns: { include: ['id'] }, computed }])
    expect(row).toBe('update *id=1→1 both=1a→1b! place=x→-!')
  })
  test('says which columns tell rows apart; a change of theirs is a delete and an insert', () => {
    expect(mapped(update, [{ match: '.*', key: ['Email'] }])).toEqual([
      'delete id=1→1 *Email=a→b phone=5→5 city=x→-',
      'insert id=1→1 *Email=a→b phone=5→5 city=x→-',
    ])
  })
  test('names the rule and what is wrong with it, when the table is seen', () => {
    expect(fail({ columns: { include: ['id', 'naem'] } })).toThrow(
      'sinks.x.tables[0].columns.include: no column naem in shop.users; it has id, Email, phone, city',
    )
    expect(fail({ mask: { nope: 'hash' } })).toThrow('sinks.x.tables[0].mask: no column nope')
    expect(fail({ rename: { nope: 'x' } })).toThrow('sinks.x.tables[0].rename: no column nope')
    expect(fail({ rename: { city: 'phone' } })).toThrow('would have two columns phone')
    expect(fail({ columns: { exclude: ['id'] } })).toThrow('loses id of its primary key')
    expect(fail({ key: ['mail'] })).toThrow(
      'sinks.x.tables[0].key: no column mail in what the target gets',
    )
    expect(fail({ computed: { c: '{nope}' } })).toThrow('no column nope')
    expect(fail({ columns: { include: [] }, key: [] })).toThrow('no column is left')
  })
})
