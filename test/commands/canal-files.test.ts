/** How a Canal's files are read: the properties format, meta.dat; and where the transaction around an event begins. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { transactionAt } from '../../src/commands/canal/cursors.ts'
import { readMeta } from '../../src/commands/canal/installation.ts'
import { Keys, parseProperties } from '../../src/commands/canal/properties.ts'

function folder(files: Record<string, string>) {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-canal-'))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), content)
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) }
}

describe('Java properties', () => {
  const read = (text: string | Buffer): Record<string, string> =>
    Object.fromEntries(
      [...parseProperties('f', Buffer.from(text as string)).properties].map(([k, v]) => [
        k,
        v.value,
      ]),
    )
  test('keys, separators, comments, continuations and escapes', () => {
    expect(
      read(
        '# comment = 1\n ! comment\n\na=1\nb : 2\nc 3\n  d\t=\t4 \nempty=\nalone\n' +
          'long = one,\\\n    two,\\\r\n\tthree\nodd=x\\\\\\\ny\neven=x\\\\\nnext=z\n' +
          'regex=.*\\\\..*\nplain=\\q\\t\\u00e9\\=\nk\\ e\\:y=v\na=last\nvalue=#no!comment=x\nend=1\\',
      ),
    ).toEqual({
      a: 'last',
      b: '2',
      c: '3',
      d: '4 ',
      empty: '',
      alone: '',
      long: 'one,two,three',
      odd: 'x\\y',
      even: 'x\\',
      next: 'z',
      regex: '.*\\..*',
      plain: 'q\té=',
      'k e:y': 'v',
      value: '#no!comment=x',
      end: '1',
    })
  })
  test('UTF-8 where it is that, else ISO-8859-1', () => {
    expect(read('a=pä🙂')).toEqual({ a: 'pä🙂' })
    expect(read(Buffer.from('a=p\xe4', 'latin1'))).toEqual({ a: 'pä' })
  })
  test('a malformed escape is refused with its line', () => {
    expect(() => read('a=1\nb=\\u12g4')).toThrow('f:2: expected four hexadecimal digits after \\u')
  })
  test('environment, then the first file; empty is missing; references', () => {
    const file = (name: string, text: string) => parseProperties(name, Buffer.from(text))
    const keys = new Keys({
      files: [
        file('own', 'a=own\nb=\nloop=${loop}\ndir=${base:../conf}/${canal.instance.destination:}'),
        file('server', 'a=server\nb=server\nc=server\nr=${a}-${nowhere}-${nowhere:x}\nfree=1'),
      ],
      env: { c: ' env ', d: '' },
      fixed: { 'canal.instance.destination': 'orders' },
    })
    expect(['a', 'b', 'c', 'd', 'r', 'dir'].map((k) => keys.text(k))).toEqual([
      'own',
      'server',
      'env',
      undefined,
      'own-${nowhere}-x',
      '../conf/orders',
    ])
    expect(keys.find('b')?.from).toBe('server:2')
    expect(keys.text('loop')).toBe('${loop}')
    expect(keys.rest().map((f) => f.key)).toEqual(['free'])
  })
})

test('meta.dat, with and without its type names', () => {
  using c = folder({
    m1: JSON.stringify({
      destination: 'example',
      clientDatas: [
        {
          clientIdentity: { clientId: 1001, destination: 'example', filter: ' shop\\..* ' },
          cursor: {
            '@type': 'com.alibaba.otter.canal.protocol.position.LogPosition',
            identity: { slaveId: -1, sourceAddress: { address: 'db', port: 3306 } },
            postion: {
              gtid: '',
              included: false,
              journalName: 'mysql-bin.000007',
              position: 1234,
              serverId: 9,
              timestamp: 1_600_000_000_000,
            },
          },
        },
        { clientIdentity: { clientId: 1002, destination: 'example' } },
      ],
    }),
    m2: '{"clientDatas":[{"clientIdentity":{"clientId":1,"filter":""},"cursor":{"postion":{"posi',
    m3: '{"clientDatas":[{"clientIdentity":{"clientId":1},"cursor":{"postion":{"position":-1.5,"journalName":"x.1"}}}]}',
  })
  expect(readMeta(join(c.dir, 'm1'))?.clients).toEqual([
    {
      id: '1001',
      filter: 'shop\\..*',
      position: {
        file: 'mysql-bin.000007',
        offset: 1234,
        serverId: 9,
        timestamp: 1_600_000_000_000,
        gtids: '',
      },
    },
    { id: '1002', filter: '', position: undefined },
  ])
  expect(() => readMeta(join(c.dir, 'm2'))).toThrow('a crash can leave half of it')
  expect(() => readMeta(join(c.dir, 'm3'))).toThrow(
    'clientDatas[0].cursor.postion.position: expected a whole number, found -1.5',
  )
  expect(readMeta(join(c.dir, 'none'))).toBeUndefined()
})

describe('the transaction around an event', () => {
  const rows = (list: [type: string, info?: string][]) =>
    list.map(([Event_type, Info = ''], i) => ({
      Pos: 4 + i * 10,
      Event_type,
      Server_id: 7,
      End_log_pos: 14 + i * 10,
      Info,
    }))
  const log = rows([
    ['Format_desc'], // 4
    ['Previous_gtids'], // 14
    ['Gtid'], // 24
    ['Query', 'BEGIN'], // 34
    ['Query', 'SAVEPOINT `a`'], // 44
    ['Table_map'], // 54
    ['Query', 'ROLLBACK TO `a`'], // 64
    ['Write_rows'], // 74
    ['Xid', 'COMMIT /* xid=1 */'], // 84
    ['Anonymous_Gtid'], // 94
    ['Query', 'use `s``q`; CREATE TABLE t (id INT)'], // 104
    ['Query', 'BEGIN'], // 114: 5.6 without GTIDs
    ['Write_rows_v1'], // 124
    ['Query', 'use `s`; COMMIT'], // 134
    ['Gtid'], // 144
    ['Transaction_payload'], // 154
    ['Gtid'], // 164
    ['Query', "XA START X'61',X'',1"], // 174
    ['Query', "XA END X'61',X'',1"], // 184
    ['XA_prepare'], // 194
    ['Gtid'], // 204
    ['Query', "XA COMMIT X'61',X'',1"], // 214
    ['Rotate'], // 224
  ])
  const query = <T>(sql: string): Promise<T[]> => {
    const from = Number(/FROM (\d+)/.exec(sql)![1])
    return Promise.resolve(log.filter((row) => row.Pos >= from) as T[])
  }
  test.each([
    [4, 4],
    [24, 24],
    [34, 24],
    [54, 24],
    [74, 24],
    [84, 24],
    [94, 94],
    [104, 94],
    [114, 114],
    [134, 114],
    [154, 144],
    [194, 164],
    [214, 204],
    [224, 224],
    [234, 234],
  ])('at %i begins at %i', async (offset, first) => {
    expect((await transactionAt(query, 'b.1', offset))?.start).toBe(first)
  })
  test('there is none where no event begins', async () => {
    for (const offset of [5, 80, 233, 500])
      expect(await transactionAt(query, 'b.1', offset)).toBeUndefined()
  })
})
