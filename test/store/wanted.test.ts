import { expect, test } from 'vitest'
import { compileFilter } from '../../src/filter.ts'
import { Wanted } from '../../src/store/batch.ts'
import { rawEvent } from '../server/changes.ts'

test('a statement is wanted when any of its tables is, or when it names a whole database', () => {
  const wanted = new Wanted(compileFilter({ include: 'd\\.b' }))
  const of = (...names: string[]): boolean =>
    wanted.wants({
      kind: 'ddl',
      ordinal: 1,
      event: rawEvent(100, 50),
      type: 'ERASE',
      database: 'd',
      table: names[0] ?? '',
      tables: names.map((table) => ({ database: 'd', table })),
      defaultDatabase: 'd',
      sql: '',
    })
  expect([of('a', 'b'), of('a'), of('b'), of(''), of()]).toEqual([true, false, true, true, true])
})
