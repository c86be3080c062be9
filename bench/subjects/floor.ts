/**
 * The dump floor: socket read and packet framing only. mysql2 connects, then the stream is framed by hand: nothing is
 * decoded but each event's type, size and position, to know where the stretch ends.
 */
import { createConnection } from 'mysql2/promise'
import type { Socket } from 'node:net'
import { finish, task } from './common.ts'

const db = await createConnection({
  host: task.host,
  port: task.port,
  user: task.user,
  password: task.password,
})
await db.query("SET @source_binlog_checksum = 'CRC32', @master_binlog_checksum = 'CRC32'")
const socket = (db as unknown as { connection: { stream: Socket } }).connection.stream
socket.removeAllListeners('data')

const name = Buffer.from(task.file)
const body = Buffer.alloc(11 + name.length)
body[0] = 0x12 // COM_BINLOG_DUMP
body.writeUInt32LE(task.from, 1)
body.writeUInt32LE(424_242, 7)
name.copy(body, 11)
const head = Buffer.from([body.length, 0, 0, 0])
socket.write(Buffer.concat([head, body]))

let rest: Buffer = Buffer.alloc(0)
for await (const piece of socket) {
  const chunk: Buffer = rest.length > 0 ? Buffer.concat([rest, piece as Buffer]) : (piece as Buffer)
  let at = 0
  while (chunk.length - at >= 4) {
    const length = chunk[at]! | (chunk[at + 1]! << 8) | (chunk[at + 2]! << 16)
    if (chunk.length - at < 4 + length) break
    if (chunk[at + 4] !== 0) throw new Error('the server ended the dump')
    const type = chunk[at + 9]!
    const next = chunk.readUInt32LE(at + 18)
    at += 4 + length
    if (type !== 4 && type !== 15 && next >= task.to) finish(task.rows)
  }
  rest = chunk.subarray(at)
}
throw new Error('the dump ended early')
