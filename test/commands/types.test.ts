/** What `sluice types` writes, compiled by the real compiler. */
import { expect, test } from 'vitest'
import { readCapturedColumn } from '../../src/catalog/definition.ts'
import { completion } from '../../src/commands/print/completion.ts'
import { typesText, type TypedTable } from '../../src/commands/print/types.ts'

function table(database: string, name: string, columns: Record<string, string>): TypedTable {
  const captured = Object.entries(columns).map(([column, type]) =>
    readCapturedColumn({
      tableName: name,
      name: column,
      columnType: type.replace(/ not null$/, ''),
      octets: null,
      collation: 45,
      nullable: type.endsWith(' not null') ? 'NO' : 'YES',
      extra: '',
      columnKey: column === 'id' ? 'PRI' : '',
      isKey: column === 'id' ? 1 : 0,
    }),
  )
  return { database, table: name, now: { columns: captured, keys: [], collation: 45 } }
}
const orders = table('shop', 'orders', {
  id: 'bigint unsigned not null',
  state: "enum('new','it''s */') not null",
  tags: "set('a','b')",
  price: 'decimal(10,2) not null',
  'two words': 'int',
  raw: 'varbinary(20)',
  doc: 'json',
})

test('one interface a table, and all of them by name', () => {
  const text = typesText([orders], { destination: 'orders', form: 'embed', whole: true })
  expect(text).toBe(`// Made by: sluice types orders

/** shop.orders */
export interface ShopOrders {
  id: bigint // bigint unsigned
  state: "new" | "it's */" | "" // enum('new','it''s * /')
  tags: string | null // set('a','b')
  price: string // decimal(10,2)
  "two words": number | null // int
  raw: Uint8Array | null // varbinary(20)
  doc: string | null // json
}

export interface Tables {
  "shop.orders": ShopOrders
}
`)
})
test('for the SDK; and columns that an image may lack', () => {
  const text = typesText([orders], { destination: 'orders', form: 'client', whole: false })
  expect(text).toContain('  id: bigint //')
  expect(text).toContain('  state?: number //')
  expect(text).toContain('  tags?: bigint | null //')
  expect(text).toContain('  raw?: Buffer | null //')
})
test('names that are alike, or no names of types', () => {
  const names = ['a-b', 'a_b', '1', 'tables'].map((name) => table('', name, { id: 'int not null' }))
  const text = typesText(names, { destination: 'x', form: 'embed', whole: true })
  expect(text.match(/interface \w+/g)).toEqual([
    'interface AB',
    'interface AB2',
    'interface Table1',
    'interface Tables2',
    'interface Tables',
  ])
})
test('a shell that is not known', () => {
  expect(() => completion('csh', [])).toThrow('expected bash, zsh, fish, found "csh"')
})
