/**
 * The dump floor: socket read and packet framing only. mysql2 connects, then the stream is framed by hand: nothing is
 * decoded but each event's type, size and position, to know where the stretch ends.
 */
import { finish, task } from './common.ts'
import { openDump } from './dump.ts'

const socket = await openDump({ ...task, serverId: 424_242 })

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
