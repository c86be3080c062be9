/** A bare dump: mysql2 connects, the dump is asked for by hand, and the socket is the caller's. No checks, no acks, no TLS. */
import type { Socket } from 'node:net'
import { createConnection } from 'mysql2/promise'

export interface DumpFrom {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly file: string
  readonly from: number
  readonly serverId: number
}

export async function openDump(options: DumpFrom): Promise<Socket> {
  const { host, port, user, password, serverId } = options
  const db = await createConnection({ host, port, user, password })
  await db.query("SET @source_binlog_checksum = 'CRC32', @master_binlog_checksum = 'CRC32'")
  const socket = (db as unknown as { connection: { stream: Socket } }).connection.stream
  socket.removeAllListeners('data')
  const name = Buffer.from(options.file)
  const body = Buffer.alloc(11 + name.length)
  body[0] = 0x12 // COM_BINLOG_DUMP
  body.writeUInt32LE(options.from, 1)
  body.writeUInt32LE(serverId, 7)
  name.copy(body, 11)
  socket.write(Buffer.concat([Buffer.from([body.length, 0, 0, 0]), body]))
  return socket
}
