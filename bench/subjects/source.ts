/** The source of Sluice over the measured stretch, wired as an instance wires it, but without store and wire. */
import { parseTimeZone } from '../../src/binlog/time.ts'
import { Catalog } from '../../src/catalog/catalog.ts'
import type { Filter, Position, Source } from '../../src/change.ts'
import { compileColumns } from '../../src/filter.ts'
import { Lookup } from '../../src/lookup.ts'
import { SlabPool } from '../../src/slab.ts'
import { mysqlSource } from '../../src/sources/mysql.ts'
import type { Task } from './common.ts'

export function benchSource(task: Task, filter: Filter): { source: Source; from: Position } {
  const { host, port, user, password } = task
  const connect = {
    host,
    port,
    user,
    password,
    connectTimeoutMs: 10_000,
    tls: { mode: 'disabled' },
  } as const
  const lookup = new Lookup(connect)
  const catalog = new Catalog({
    query: (sql, params) => lookup.query(sql, params),
    timeZone: parseTimeZone('UTC'),
    columns: compileColumns({}),
    log: { warn: (_fields: object, message: string) => console.error(message) },
  })
  const source = mysqlSource({ connect, epoch: 1, catalog, filter, slabs: new SlabPool() })
  const from = {
    epoch: 1,
    server: '',
    file: task.file,
    offset: task.from,
    skip: 0,
    gtids: undefined,
    timestamp: 0,
  }
  return { source, from }
}
