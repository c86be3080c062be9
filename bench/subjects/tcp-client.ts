/**
 * The client of the end-to-end subject: gets over TCP, four in flight, every batch acked. It is as lean as a client can
 * be, for what is measured is the server: it reads into one buffer, counts rows by the rowsCount property of each entry's
 * header, and decodes nothing. It retries until the server listens, and prints when it had everything.
 */
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import * as wire from '../../src/server/wire.ts'
import { finish, task } from './common.ts'

const { ACK, CLIENTACK, CLIENTAUTHENTICATION, GET, HANDSHAKE, MESSAGES, SUBSCRIPTION } =
  wire.packetTypes
const IN_FLIGHT = 4
const names = { destination: 'bench', clientId: '1' }
const get = wire.framePacket(
  GET,
  wire.writeGet({ ...names, fetchSize: 1000, timeout: 1000, unit: 2, autoAck: false }),
)
const ROWS_COUNT = Buffer.from('\x0a\x09rowsCount\x12')
/** The header stands first in an entry, and is far shorter than this. */
const HEADER_MAX = 400

let rows = 0
function count(body: Buffer): bigint {
  const messages = new wire.MessagesReader(body)
  const { bytes } = messages
  while (messages.next()) {
    const head = bytes.subarray(messages.start, Math.min(messages.start + HEADER_MAX, messages.end))
    const at = head.indexOf(ROWS_COUNT)
    if (at < 0) continue
    const digits = at + ROWS_COUNT.length
    rows += Number(head.toString('latin1', digits + 1, digits + 1 + head[digits]!))
  }
  return messages.batchId
}

let subscribed = false
/** Takes one packet; returns what to send. */
function answer(packet: Buffer): Buffer[] {
  const { type, body } = wire.readPacket(packet)
  switch (type) {
    case HANDSHAKE:
      return [wire.framePacket(CLIENTAUTHENTICATION, Buffer.alloc(0))]
    case ACK: {
      const { errorCode = 0, errorMessage } = wire.readAck(body)
      if (errorCode > 0) throw new Error(errorMessage)
      if (subscribed) return Array.from({ length: IN_FLIGHT }, () => get)
      subscribed = true
      return [wire.framePacket(SUBSCRIPTION, wire.writeSub({ ...names, filter: '' }))]
    }
    case MESSAGES: {
      const batchId = count(body)
      if (batchId <= 0n) return [get]
      return [wire.framePacket(CLIENTACK, wire.writeClientAck({ ...names, batchId })), get]
    }
    default:
      throw new Error(`packet type ${type}`)
  }
}

/** One connection's life: bytes are gathered in one buffer, packet by packet. */
function run(): Promise<void> {
  return new Promise((resolve, reject) => {
    const memory = Buffer.allocUnsafeSlow(16 * 1024 * 1024)
    let have = 0
    const socket = connect({
      host: '127.0.0.1',
      port: task.canalPort ?? 0,
      noDelay: true,
      onread: {
        buffer: Buffer.allocUnsafeSlow(512 * 1024),
        callback: (size, chunk) => {
          have += (chunk as Buffer).copy(memory, have, 0, size)
          let at = 0
          const send: Buffer[] = []
          while (have - at >= 4) {
            const length = memory.readInt32BE(at)
            if (have - at < 4 + length) break
            send.push(...answer(memory.subarray(at + 4, at + 4 + length)))
            at += 4 + length
          }
          if (at > 0) memory.copyWithin(0, at, have)
          have -= at
          if (send.length > 0) socket.write(Buffer.concat(send))
          if (rows >= task.rows) socket.end(() => resolve())
          return true
        },
      },
    })
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('the server closed the connection')))
  })
}

while (rows < task.rows) {
  try {
    await run()
  } catch (error) {
    if (rows > 0) throw error
    await sleep(2) // the server does not listen yet
  }
}
finish(rows, { endedAtMs: performance.timeOrigin + performance.now() })
