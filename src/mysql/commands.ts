/**
 * The bytes of the commands that a replica sends: its registration, the two forms of a dump, the acknowledgement of
 * semi-synchronous replication. Pure; each with its layout and where that stands in MySQL's source.
 */
import { assert } from '../errors.ts'

const COM_BINLOG_DUMP = 0x12
const COM_REGISTER_SLAVE = 0x15
const COM_BINLOG_DUMP_GTID = 0x1e
const SEMI_SYNC = 0xef
/** Flags of a dump (sql/rpl_constants.h, sql/rpl_binlog_sender.h). */
const USE_HEARTBEAT_V2 = 0x02
const THROUGH_GTID = 0x04
/** What the plain form can address. */
export const PLAIN_OFFSET_MAX = 0xffffffff

export interface DumpRequest {
  readonly serverId: number // 1 … 2^32 - 1, ours; unique among the source's replicas
  readonly replicaUuid: string // ours; a shared one makes MySQL kill the dump that had it first
  readonly heartbeatMs: number // how often the server speaks when it has nothing to say
  readonly place: string // where the dump begins, for messages
  readonly file: string // "" with `gtids`: the server finds the file
  readonly offset: number // 4 is the first event
  readonly semiSync?: boolean | undefined // as a semi-synchronous replica, where the server knows that
  readonly gtids: Buffer | undefined // encoded set of what we have: COM_BINLOG_DUMP_GTID, else COM_BINLOG_DUMP
  readonly state?: string | undefined // of MariaDB: the last GTID of each domain that we have; it then finds the file
}
/** A command packet: sequence id 0. */
function command(body: Buffer): Buffer {
  const packet = Buffer.alloc(4 + body.length)
  packet.writeUIntLE(body.length, 0, 3)
  body.copy(packet, 4)
  return packet
}

/**
 * COM_REGISTER_SLAVE (sql/rpl_source.cc, register_replica):
 *
 *   1 command · 4 server id · 1+n host · 1+n user · 1+n password · 2 port · 4 rank (unused) · 4 source id (0)
 */
export function registerCommand(serverId: number): Buffer {
  const body = Buffer.alloc(18)
  body[0] = COM_REGISTER_SLAVE
  body.writeUInt32LE(serverId, 1)
  return command(body)
}

/**
 * COM_BINLOG_DUMP (sql/rpl_source.cc, com_binlog_dump):
 *
 *   1 command · 4 position · 2 flags · 4 server id · rest file name
 */
export function dumpCommand(request: DumpRequest): Buffer {
  assert(request.offset <= PLAIN_OFFSET_MAX, 'the plain dump cannot address beyond 4 GiB')
  const file = Buffer.from(request.file, 'utf8')
  const body = Buffer.alloc(11 + file.length)
  body[0] = COM_BINLOG_DUMP
  body.writeUInt32LE(request.offset, 1)
  body.writeUInt16LE(USE_HEARTBEAT_V2, 5)
  body.writeUInt32LE(request.serverId, 7)
  file.copy(body, 11)
  return command(body)
}

/**
 * COM_BINLOG_DUMP_GTID (sql/rpl_source.cc, com_binlog_dump_gtid):
 *
 *   1 command · 2 flags · 4 server id · 4 length of the file name · file name · 8 position · 4 length of the set · set
 */
export function gtidDumpCommand(request: DumpRequest, gtids: Buffer): Buffer {
  const file = Buffer.from(request.file, 'utf8')
  const body = Buffer.alloc(23 + file.length + gtids.length)
  body[0] = COM_BINLOG_DUMP_GTID
  body.writeUInt16LE(USE_HEARTBEAT_V2 | THROUGH_GTID, 1)
  body.writeUInt32LE(request.serverId, 3)
  body.writeUInt32LE(file.length, 7)
  file.copy(body, 11)
  body.writeBigUInt64LE(BigInt(request.offset), 11 + file.length)
  body.writeUInt32LE(gtids.length, 19 + file.length)
  gtids.copy(body, 23 + file.length)
  return command(body)
}

/**
 * What a semi-synchronous replica answers (plugin/semisync/semisync_replica.cc, slaveReply):
 *
 *   1 0xef · 8 position · rest file name
 */
export function semiSyncAck(file: string, offset: number): Buffer {
  const name = Buffer.from(file, 'utf8')
  const body = Buffer.alloc(9 + name.length)
  body[0] = SEMI_SYNC
  body.writeBigUInt64LE(BigInt(offset), 1)
  name.copy(body, 9)
  return command(body)
}
