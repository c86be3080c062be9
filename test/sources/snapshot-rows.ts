/**
 * For tests of snapshots: a table read piece by piece, what a reader says of its rows, and a table of random values whose rows
 * as read must equal those that the log has.
 */
import { expect } from 'vitest'
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import { AFTER, PRESENT, type RowsChange } from '../../src/change.ts'
import { compileColumns } from '../../src/filter.ts'
import { BinaryConnection } from '../../src/mysql/binary.ts'
import { Out } from '../../src/out.ts'
import {
  changesOf,
  readChunk,
  SNAPSHOT_SESSION,
  type Chunk,
} from '../../src/sources/snapshot/chunk.ts'
import { planTable, type KeyPlace } from '../../src/sources/snapshot/plan.ts'
import { capture as captured } from '../binlog/capture.ts'
import { writeRandom } from '../binlog/round-trip.ts'
import type { TypeSpec } from '../binlog/types.ts'
import type { MysqlServer } from '../support/mysql.ts'

const connectTo = ({ host, port, user, password }: MysqlServer) => ({
  host,
  port,
  user,
  password,
  connectTimeoutMs: 10_000,
  tls: { mode: 'disabled' as const },
})
const catalogOf = (server: MysqlServer, zone: string): Catalog =>
  new Catalog({
    query: (sql, params) => server.query(sql, params),
    timeZone: parseTimeZone(zone),
    columns: compileColumns({ include: '', exclude: '' }),
    log: { warn: () => {} },
  })

export interface Size {
  readonly rows: number
  readonly bytes: number
}
/** Every piece of a table, one after the other. */
export async function readTable(
  server: MysqlServer,
  name: readonly [database: string, table: string],
  { zone, size }: { readonly zone: string; readonly size: Size },
): Promise<Chunk[]> {
  const found = await catalogOf(server, zone).current(...name)
  const plan = planTable(found!)
  const connection = await BinaryConnection.open(connectTo(server), SNAPSHOT_SESSION)
  const chunks: Chunk[] = []
  try {
    let after: KeyPlace
    for (;;) {
      const chunk = await readChunk(connection, { plan, after, ...size, lock: true, serverId: 7 })
      chunks.push(chunk)
      after = chunk.after
      if (chunk.last) return chunks
    }
  } finally {
    connection.close()
  }
}

/** Everything a reader says of each row, in order. */
function shown(changes: readonly RowsChange[]): unknown[][] {
  const out = new Out(256)
  const text = (write: () => void): string => {
    out.reset()
    write()
    return out.buf.toString('latin1', 0, out.at)
  }
  const rows: unknown[][] = []
  for (const change of changes)
    for (const reader = change.reader(); reader.next();)
      rows.push(
        change.table.columns.map(({ index }) => {
          const state = reader.state(AFTER, index)
          if (state !== PRESENT) return state
          const value = reader.value(AFTER, index)
          return {
            value: value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value,
            text: text(() => reader.text(AFTER, index, out)),
            utc: text(() => reader.utc(AFTER, index, out)),
          }
        }),
      )
  return rows
}
export const rowsOf = (chunks: readonly Chunk[]): RowsChange[] =>
  chunks.flatMap((chunk) => changesOf(chunk, { offset: 4, firstRow: 0 }))

/** `alike`: whether the columns' definitions must be the same, too. */
export async function roundTrip(
  { server, database }: { readonly server: MysqlServer; readonly database: string },
  specs: readonly TypeSpec[],
  count: number,
  {
    zone = '+00:00',
    ignoreText = false,
    alike = true,
    capture = captured,
  }: {
    readonly zone?: string
    readonly ignoreText?: boolean
    readonly alike?: boolean
    readonly capture?: Parameters<typeof writeRandom>[0]['capture']
  } = {},
): Promise<void> {
  const what = { capture, server, database, specs, count, zone }
  const { table, seed, rows, changes } = await writeRandom(what)
  const size = { rows: 70, bytes: 1 << 20 }
  const chunks = await readTable(server, [database, table], { zone, size })
  const read = rowsOf(chunks)
  const streamed = changes.filter((c) => c.table.name === table)
  const [ours, theirs] = [shown(read), shown(streamed)]
  expect(ours.length, `seed ${seed}`).toBe(count)
  const named = (rowsChanges: readonly RowsChange[]) =>
    rowsChanges[0]!.table.columns.map((c) => [c.name, c.type, c.meta, c.key, c.nullable])
  if (alike) expect(named(read)).toEqual(named(streamed))
  for (const [r, row] of theirs.entries())
    for (const [c, cell] of row.entries()) {
      const where = `seed ${seed}, ${specs[c - 1]?.sql ?? 'id'}, row ${r}: ${rows[r]![c - 1] ?? r}`
      const mine = ours[r]![c]
      if (ignoreText && typeof cell === 'object')
        expect((mine as { value: unknown }).value, where).toEqual(
          (cell as { value: unknown }).value,
        )
      else expect(mine, where).toEqual(cell)
    }
}
