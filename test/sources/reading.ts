/** How the tests on real servers read: a source with tables nobody decodes, and reads that stop where asked. */
import {
  sourceFacts,
  mysqlSource,
  type MysqlSourceOptions,
  type SourceFacts,
} from '../../src/sources/index.ts'
import { advance, type Filter, type Position, type Source } from '../../src/change.ts'
import { Connection, type ConnectOptions } from '../../src/mysql/connection.ts'
import { SlabPool } from '../../src/slab.ts'
import { bareCatalog, describeTransaction, type Described } from './fixture.ts'

interface Address {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
}
export const connectOptions = (address: Address): ConnectOptions => ({
  host: address.host,
  port: address.port,
  user: address.user,
  password: address.password,
  tls: { mode: 'disabled' },
  connectTimeoutMs: 10_000,
})

export async function factsOf(address: Address): Promise<SourceFacts> {
  using connection = await Connection.open(connectOptions(address))
  return await sourceFacts(connection)
}

/** A source on the server; only tables of `database` where it is given. */
export function sourceOn(
  address: Address,
  database: string,
  options: Partial<Omit<MysqlSourceOptions, 'slabs'>> = {},
  slabs = new SlabPool(),
): { source: Source; slabs: SlabPool } {
  const filter: Filter = (name) => name === database
  const source = mysqlSource({
    connect: connectOptions(address),
    epoch: 1,
    catalog: bareCatalog,
    filter,
    slabs,
    heartbeatMs: 1_000,
    ...options,
  })
  return { source, slabs }
}

export interface Read {
  readonly all: Described[]
  /** After each of `all`. */
  readonly positions: Position[]
  /** What ended the read, when it was not the end asked for. */
  readonly error: unknown
}
/** Reads from `from` until the position has reached `to`, or an error. Only transactions with changes are in `all`. */
export async function readTo(
  source: Source,
  from: Position,
  to: Position | undefined,
): Promise<Read> {
  const abort = new AbortController()
  const all: Described[] = []
  const positions: Position[] = []
  let position = from
  try {
    for await (const tx of source.read(from, abort.signal)) {
      position = advance(position, tx)
      if (tx.changes.length > 0) {
        all.push(describeTransaction(tx))
        positions.push(position)
      }
      tx.slab?.release()
      if (to && tx.state !== 'open' && tx.endFile === to.file && tx.endOffset >= to.offset) break
    }
  } catch (error) {
    return { all, positions, error }
  } finally {
    abort.abort()
  }
  return { all, positions, error: undefined }
}
