/**
 * A semi-synchronous replica that acks late: until it has, a transaction is in the log, and with every other replica, but
 * not committed in InnoDB of the source.
 *
 *   from the source  0x00 · 0xef · u8 whether an ack is wanted · event
 *   an ack           0xef · u64 position · file name          (plugin/semisync/semisync.h)
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { eventTypes } from '../../src/binlog/reader.ts'
import { Connection, type ConnectOptions } from '../../src/mysql/connection.ts'
import type { MysqlServer } from '../support/mysql.ts'

const MAGIC = 0xef
const SERVER_ID = 4242

/** Makes the source wait for the acks of semi-synchronous replicas. */
export async function enableSemiSync(mysql: MysqlServer): Promise<void> {
  await mysql.query("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")
  await mysql.query(
    `SET GLOBAL rpl_semi_sync_source_timeout = 600000; SET GLOBAL rpl_semi_sync_source_wait_point = AFTER_SYNC;
     SET GLOBAL rpl_semi_sync_source_enabled = ON`,
  )
}

export class SlowReplica implements AsyncDisposable {
  acks = 0
  readonly #close: () => void
  readonly #done: Promise<void>
  private constructor(
    connection: Connection,
    about: { file: string; offset: number; ackMs: number },
  ) {
    const { socket, chunks } = connection.takeOver()
    this.#close = () => socket.destroy()
    const send = (body: Buffer): void => {
      const packet = Buffer.alloc(4 + body.length)
      packet.writeUIntLE(body.length, 0, 3)
      body.copy(packet, 4)
      if (!socket.destroyed) socket.write(packet)
    }
    const register = Buffer.alloc(18)
    register[0] = 0x15
    register.writeUInt32LE(SERVER_ID, 1)
    send(register)
    const dump = Buffer.alloc(11 + about.file.length)
    dump[0] = 0x12
    dump.writeUInt32LE(about.offset, 1)
    dump.writeUInt32LE(SERVER_ID, 7)
    dump.write(about.file, 11)
    let { file } = about
    const payload = (body: Buffer): void => {
      if (body[0] !== 0 || body[1] !== MAGIC) return
      const event = body.subarray(3)
      if (event[4] === eventTypes.ROTATE) {
        file = event.toString('latin1', 27).replace(/(\.\d{6}).*$/s, '$1')
        return
      }
      if (body[2] !== 1) return
      const ack = Buffer.alloc(9 + file.length)
      ack[0] = MAGIC
      ack.writeBigUInt64LE(BigInt(event.readUInt32LE(13)), 1)
      ack.write(file, 9)
      setTimeout(() => {
        this.acks++
        send(ack)
      }, about.ackMs)
    }
    this.#done = (async () => {
      let rest = Buffer.alloc(0)
      let answered = false
      for (;;) {
        const { done, value } = await chunks.next()
        if (done === true) return
        rest = Buffer.concat([rest, value])
        for (let size = 0; rest.length >= 4; rest = rest.subarray(size)) {
          size = 4 + rest.readUIntLE(0, 3)
          if (rest.length < size) break
          if (answered) payload(rest.subarray(4, size))
          else send(dump)
          answered = true
        }
      }
    })().catch(() => {})
  }
  static async open(mysql: MysqlServer, ackMs: number): Promise<SlowReplica> {
    const { host, port, user, password } = mysql
    const options: ConnectOptions = {
      host,
      port,
      user,
      password,
      connectTimeoutMs: 10_000,
      tls: { mode: 'disabled' },
    }
    const connection = await Connection.open(options)
    await connection.query(
      `SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1, @source_binlog_checksum = @@global.binlog_checksum,
         @master_binlog_checksum = @@global.binlog_checksum, @replica_uuid = UUID(), @slave_uuid = UUID()`,
    )
    const [status] = await connection.query<{ File: string; Position: number }>(
      'SHOW BINARY LOG STATUS',
    )
    const replica = new SlowReplica(connection, {
      file: status!.File,
      offset: Number(status!.Position),
      ackMs,
    })
    for (;;) {
      const [row] = await mysql.query<{ Value: string }>(
        "SHOW STATUS LIKE 'Rpl_semi_sync_source_clients'",
      )
      if (row?.Value === '1') return replica
      await sleep(20)
    }
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#close()
    await this.#done
  }
}
