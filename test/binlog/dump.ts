/**
 * The events of a real server's binlog as it sends them to a replica, for the tests of this folder: mysql2 opens the
 * connection, the dump is asked for without waiting at the end, the packets are read to their end. Deliberately apart
 * from src/mysql and src/sources, which have tests of their own.
 */
import type { Socket } from 'node:net'
import mysql from 'mysql2/promise'
import { eventType, eventTypes } from '../../src/binlog/reader.ts'
import type { GtidSet } from '../../src/gtid.ts'

export interface Address {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
}

const COM_BINLOG_DUMP = 0x12
const COM_BINLOG_DUMP_GTID = 0x1e
const NON_BLOCK = 1
const HEARTBEAT_V2 = 2
const THROUGH_GTID = 4

let serverId = 77_000

/** The events of `file` and the files after it, checksums included, from position 4 on. */
export async function dump(server: Address, file: string): Promise<Buffer[]> {
  return ask(server, byFile(file, NON_BLOCK), () => false)
}

/** The events of every transaction that is not in `gtids`. */
export async function dumpGtid(server: Address, gtids: GtidSet): Promise<Buffer[]> {
  const set = gtids.encode()
  const head = Buffer.alloc(1 + 2 + 4 + 4 + 8 + 4)
  head[0] = COM_BINLOG_DUMP_GTID
  head.writeUInt16LE(NON_BLOCK | THROUGH_GTID, 1)
  head.writeUInt32LE(serverId++, 3)
  head.writeBigUInt64LE(4n, 11)
  head.writeUInt32LE(set.length, 19)
  return ask(server, Buffer.concat([head, set]), () => false)
}

/** Waits at the end of `file` until a heartbeat has come, of version 2 where the server knows that. */
export async function dumpToHeartbeat(server: Address, file: string): Promise<Buffer[]> {
  const types: number[] = [eventTypes.HEARTBEAT, eventTypes.HEARTBEAT_V2]
  return ask(server, byFile(file, HEARTBEAT_V2), (event) => types.includes(eventType(event, 0)))
}

function byFile(file: string, flags: number): Buffer {
  const head = Buffer.alloc(11)
  head[0] = COM_BINLOG_DUMP
  head.writeUInt32LE(4, 1)
  head.writeUInt16LE(flags, 5)
  head.writeUInt32LE(serverId++, 7)
  return Buffer.concat([head, Buffer.from(file)])
}

async function ask(
  server: Address,
  command: Buffer,
  enough: (event: Buffer) => boolean,
): Promise<Buffer[]> {
  const { host, port, user, password } = server
  const connection = await mysql.createConnection({ host, port, user, password })
  try {
    for (const name of ['source', 'master'])
      await connection.query(
        `SET @${name}_binlog_checksum = 'CRC32', @${name}_heartbeat_period = 50000000`,
      )
    await connection.query(`SET @replica_uuid = UUID(), @slave_uuid = @replica_uuid`)
    const raw = connection as unknown as { connection: { stream: Socket } }
    const { stream } = raw.connection
    stream.removeAllListeners('data')
    const header = Buffer.from([command.length, command.length >> 8, command.length >> 16, 0])
    stream.write(Buffer.concat([header, command]))
    const events: Buffer[] = []
    let left: Buffer = Buffer.alloc(0)
    for await (const chunk of stream) {
      left = Buffer.concat([left, chunk as Buffer])
      while (left.length >= 4 && left.length >= 4 + left.readUIntLE(0, 3)) {
        const packet = left.subarray(4, 4 + left.readUIntLE(0, 3))
        left = left.subarray(4 + packet.length)
        if (packet[0] === 0xff) throw new Error(`dump refused: ${packet.toString('utf8', 9)}`)
        if (packet[0] === 0xfe && packet.length < 9) return events
        const event = Buffer.from(packet.subarray(1))
        events.push(event)
        if (enough(event)) return events
      }
    }
    throw new Error('the dump ended without its last packet')
  } finally {
    connection.destroy()
  }
}
