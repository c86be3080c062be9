/**
 * Table filters in Canal's syntax and column lists: what they accept, and what they say about what they do not.
 */
import { describe, expect, it } from 'vitest'
import type { Column } from '../src/change.ts'
import { SluiceError } from '../src/errors.ts'
import type { FilterOptions } from '../src/filter.ts'
import {
  compileColumns,
  compileFilter,
  everything,
  FILTER_LENGTH_MAX,
  intersect,
} from '../src/filter.ts'

const wanted = (options: FilterOptions, ...names: string[]): string[] => {
  const filter = compileFilter(options)
  return names.filter((name) => filter(name.split('.')[0]!, name.split('.').slice(1).join('.')))
}
const failure = (run: () => unknown): SluiceError => {
  try {
    run()
  } catch (error) {
    if (error instanceof SluiceError) return error
    throw error
  }
  throw new Error('it did not throw')
}

describe('table filter', () => {
  const names = ['shop.a', 'shop.ab', 'shopping.a', 'mysql.slave_x', 'Shop.A']
  it('wants everything by default', () => {
    for (const include of [undefined, '', ' , ', []])
      expect(wanted({ include }, ...names)).toEqual(names)
    expect(compileFilter({})).toBe(everything)
  })
  it.each<[include: string, exclude: string, expected: string[]]>([
    ['.*\\..*', '', names],
    ['.*\\\\..*', '', names],
    ['shop\\..*', '', ['shop.a', 'shop.ab', 'Shop.A']],
    ['shop.*', '', ['shop.a', 'shop.ab', 'shopping.a', 'Shop.A']],
    ['shop\\.a', '', ['shop.a', 'Shop.A']],
    ['shop\\.a,mysql\\..*', '', ['shop.a', 'mysql.slave_x', 'Shop.A']],
    [' SHOP\\.AB , mysql\\.x ', '', ['shop.ab']],
    ['shop|shop\\.a', '', ['shop.a', 'Shop.A']],
    ['shop\\.a{1,2}b?,x', '', ['shop.a', 'shop.ab', 'Shop.A']],
    ['shop\\.(a|b,c)', '', ['shop.a', 'Shop.A']],
    ['shop\\.[A-B]', '', ['shop.a', 'Shop.A']],
    ['(?!mysql\\.).*', '', ['shop.a', 'shop.ab', 'shopping.a', 'Shop.A']],
    ['', 'mysql\\.slave_.*', ['shop.a', 'shop.ab', 'shopping.a', 'Shop.A']],
    ['shop\\..*', '.*\\.ab', ['shop.a', 'Shop.A']],
    ['shop\\.\\d', '', []],
  ])('include "%s" exclude "%s"', (include, exclude, expected) => {
    expect(wanted({ include, exclude }, ...names)).toEqual(expected)
  })
  it('takes lists, whose items may hold commas of their own', () => {
    expect(wanted({ include: ['shop\\.a,mysql\\..*', 'shopping\\..*'] }, ...names)).toEqual([
      'shop.a',
      'shopping.a',
      'mysql.slave_x',
      'Shop.A',
    ])
  })
  it('names the item it cannot read', () => {
    const error = failure(() => compileFilter({ include: 'a\\..*,b(' }))
    expect(error.code).toBe('CONFIG_INVALID')
    expect(error.message).toContain('filter include, item 2 "b("')
    expect(failure(() => compileFilter({ exclude: ['(?<x>a)'] })).message).toContain(
      'filter exclude, item 1',
    )
  })
  it('limits the length of a text and the size of all its patterns together', () => {
    const long = 'x'.repeat(FILTER_LENGTH_MAX + 1)
    expect(failure(() => compileFilter({ include: long })).message).toContain('at most 65536')
    const many = Array.from({ length: 5000 }, () => '.{0,5000}').join(',')
    expect(failure(() => compileFilter({ include: many })).message).toContain('too large')
    const tables = Array.from({ length: 2000 }, (_, i) => `database_${i}\\.table_name_${i}`)
    expect(
      wanted({ include: tables.join(',') }, 'database_7.table_name_7', 'database_7.table_name_8'),
    ).toHaveLength(1)
  })
  it('answers the same when it has forgotten', () => {
    const filter = compileFilter({ include: 'd\\.t1.*' })
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 30_000; i++) expect(filter('d', `t${i}`)).toBe(String(i).startsWith('1'))
    }
  })
  it('intersects', () => {
    const a = compileFilter({ include: 'd\\..*' })
    const both = intersect(a, compileFilter({ exclude: '.*\\.x' }))
    expect([both('d', 't'), both('d', 'x'), both('e', 't')]).toEqual([true, false, false])
    expect(intersect(everything, a)).toBe(a)
    expect(intersect(a, everything)).toBe(a)
  })
})

describe('column filter', () => {
  const column = (name: string, key = false): Column => ({
    name,
    index: 0,
    type: 3,
    meta: 0,
    mysqlType: 'int',
    collation: 0,
    key,
    nullable: true,
    unsigned: false,
    invisible: false,
    members: undefined,
    size: 4,
    text: () => undefined,
    value: () => null,
  })
  const columns = [column('Id', true), column('name'), column('note')]
  const names = (options: FilterOptions, table = 't'): string[] =>
    compileColumns(options)('d', table, columns).selected.map((c) => c.name)
  it('keeps or drops columns, ignoring case', () => {
    expect(names({ include: 'D.T:ID/Note' })).toEqual(['Id', 'note'])
    expect(names({ exclude: ['d.t:NAME', 'd.u:id'] })).toEqual(['Id', 'note'])
    expect(names({ include: 'd.t:id', exclude: 'd.t:id' })).toEqual(['Id'])
  })
  it('hands the same array on where nothing is left out', () => {
    expect(compileColumns({ include: 'd.t:id' })('d', 'other', columns).selected).toBe(columns)
    expect(compileColumns({})('d', 't', columns).selected).toBe(columns)
  })
  it('warns of a lost key', () => {
    expect(compileColumns({ exclude: 'd.t:id' })('d', 't', columns).warning).toMatch(
      /d\.t .*key columns Id/,
    )
    expect(compileColumns({ exclude: 'd.t:note' })('d', 't', columns).warning).toBe('')
  })
  it('names a column that is not there, and a table without any left', () => {
    const error = failure(() => names({ include: 'd.t:id/Nme' }))
    expect(error.code).toBe('CONFIG_INVALID')
    expect(error.message).toBe('column filter of d.t: no column Nme; it has Id, name, note')
    expect(failure(() => names({ exclude: 'd.t:id/name/note' })).message).toContain(
      'no column is left',
    )
  })
  it.each(['d.t', 'd.t:', 't:a', 'd.t:a//b', 'd.t:a:b', ':a'])('refuses "%s"', (item) => {
    expect(failure(() => compileColumns({ exclude: ['x.y:z', item] })).message).toContain(
      `column filter exclude, item 2 "${item}": expected database.table:column/column`,
    )
  })
})
