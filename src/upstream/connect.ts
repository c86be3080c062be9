/**
 * From the configuration of a source to a connection, and the one question that every use of a source begins with. Reads
 * certificate files; knows nothing of instances.
 */
import { readFileSync } from 'node:fs'
import type { InstanceConfig } from '../config/config.ts'
import { Connection, type ConnectOptions } from '../mysql/connection.ts'
import { sourceFacts, type SourceFacts } from '../sources/index.ts'

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
