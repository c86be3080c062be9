/**
 * From the configuration of a source to a connection, to what every use of a source begins with asking, and to the catalog of
 * its tables. Reads certificate files; knows nothing of instances.
 */
import { readFileSync } from 'node:fs'
import { parseTimeZone } from '../binlog/time.ts'
import { Catalog } from '../catalog/catalog.ts'
import type { HistoryFile } from '../catalog/history.ts'
import type { InstanceConfig } from '../config/config.ts'
import { compileColumns } from '../filter.ts'
import type { Logger } from '../logger.ts'
import type { Lookup } from '../lookup.ts'
import { Connection, type ConnectOptions } from '../mysql/connection.ts'
import { SlabPool } from '../slab.ts'
import { logEnd, scanStatements, sourceFacts, type SourceFacts } from '../sources/index.ts'

/** What a connection needs; reads the certificate files. */
export function connectOptions(source: InstanceConfig['source']): ConnectOptions {
  const { host, port, user, password, connectTimeoutMs, tls } = source
  const read = (file: string | undefined): Buffer | undefined =>
    file === undefined ? undefined : readFileSync(file)
  return {
    host,
    port,
    user,
    password,
    connectTimeoutMs,
    tls: { mode: tls.mode, ca: read(tls.ca), cert: read(tls.cert), key: read(tls.key) },
  }
}

/** Connects, asks what there is to know of the source, and closes. Throws what Connection.open and sourceFacts throw. */
export async function factsOf(options: ConnectOptions): Promise<SourceFacts> {
  using connection = await Connection.open(options)
  return await sourceFacts(connection)
}

/** The catalog of a source: asks it by `lookup`, and looks through its log on a connection of its own. */
export function openCatalog(about: {
  readonly config: InstanceConfig
  readonly facts: SourceFacts
  readonly epoch: number
  readonly lookup: Lookup
  readonly log: Logger
  readonly history?: HistoryFile | undefined
}): Catalog {
  const { config, facts, epoch, lookup, log, history } = about
  const connect = connectOptions(config.source)
  return new Catalog({
    query: (sql, params) => lookup.query(sql, params),
    timeZone: parseTimeZone(config.timezone ?? facts.timeZone),
    columns: compileColumns(config.filter.columns),
    log,
    history,
    ambiguous: config.ambiguousSchema,
    end: () => logEnd(lookup, epoch),
    scan: (from, to) => {
      const options = { connect, epoch, server: facts.serverUuid, slabs: new SlabPool() }
      return scanStatements(options, from, to)
    },
  })
}

/** Does not wait for `work` any longer once `signal` aborts: a connection attempt cannot be called off. */
export async function unlessAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const aborted = (): void => resolve()
  signal.addEventListener('abort', aborted)
  try {
    await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', aborted)
  }
}
