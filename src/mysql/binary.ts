/**
 * Rows of SELECTs by the binary protocol, over a connection's socket: prepared, executed and read here, because a driver
 * makes objects of rows. Each row is handed on as a range of bytes, at once and without a promise; who is slow holds the
 * server back by TCP. One statement at a time. Knows no table and no binlog.
 *
 * Commands and answers (sql/protocol_classic.cc, sql/sql_prepare.cc):
 *   COM_STMT_PREPARE  0x16 · text → 0x00 · u32 statement · u16 columns · u16 parameters · u8 · u16 warnings,
 *                     then the columns' definitions and an EOF
 *   COM_STMT_EXECUTE  0x17 · u32 statement · u8 0 · u32 1 → packed count of columns, definitions, EOF, rows, EOF
 *   COM_STMT_CLOSE    0x19 · u32 statement, no answer
 *   a row             0x00 · null bits (two unused, then one per column) · the values that are not NULL
 */
import type { Socket } from 'node:net'
import { assert, SluiceError } from '../errors.ts'
import type { Chunks } from './chunks.ts'
import { Connection, type ConnectOptions } from './connection.ts'
import { serverFailure } from './failure.ts'

const FULL = 0xffffff
const COM_STMT_PREPARE = 0x16
const COM_STMT_EXECUTE = 0x17
const COM_STMT_CLOSE = 0x19
const ERR = 0xff
const EOF = 0xfe
const FIRST_BYTES = 512 * 1024

/** One column of a result. */
export interface ResultColumn {
  readonly name: string
  readonly type: number // include/field_types.h
  readonly charset: number
}
/** What takes a result. */
export interface RowTaker {
  columns(columns: readonly ResultColumn[]): void
  /** A row in bytes[start, end), the leading 0x00 included; valid until it returns. */
  row(bytes: Buffer, start: number, end: number): void
}

export class BinaryConnection {
  readonly #socket: Socket
  readonly #chunks: Chunks
  readonly #where: string
  #buffer = Buffer.allocUnsafeSlow(FIRST_BYTES)
  #at = 0
  #limit = 0
  #start = 0 // of the payload that was found last
  #end = 0
  #busy = false
  #closed = false

  private constructor(connection: Connection) {
    const { socket, chunks, where } = connection.takeOver()
    this.#socket = socket
    this.#chunks = chunks
    this.#where = where
  }
  /** Connects and runs `session`, statements without a result. Throws as Connection.open and query do. */
  static async open(
    options: ConnectOptions,
    session: readonly string[],
    signal?: AbortSignal,
  ): Promise<BinaryConnection> {
    const connection = await Connection.open(options, signal)
    try {
      for (const sql of session) await connection.query(sql)
      return new BinaryConnection(connection)
    } catch (error) {
      connection.close()
      throw error
    }
  }

  /** Runs one SELECT. Throws what the server refused, STREAM_ENDED; the connection is of no use after either. */
  async select(sql: string, taker: RowTaker): Promise<void> {
    assert(!this.#busy, 'two statements at once on one connection')
    this.#busy = true
    const id = await this.#prepare(sql)
    this.#send(COM_STMT_EXECUTE, (body) => {
      body.writeUInt32LE(id, 1)
      body.writeUInt32LE(1, 6)
    })
    await this.#payload(sql)
    const count = this.#buffer[this.#start]!
    assert(count !== 0, 'a statement that is read has a result')
    const width = packed(this.#buffer, this.#start).value
    const columns: ResultColumn[] = []
    for (let i = 0; i < width; i++) {
      await this.#payload(sql)
      columns.push(readColumn(this.#buffer, this.#start, this.#end))
    }
    await this.#payload(sql)
    taker.columns(columns)
    for (;;) {
      while (!this.#next()) await this.#more()
      const bytes = this.#buffer
      const first = bytes[this.#start]!
      if (first === EOF && this.#end - this.#start < 9) break
      if (first === ERR) throw this.#refused(sql)
      taker.row(bytes, this.#start, this.#end)
    }
    this.#send(COM_STMT_CLOSE, (body) => body.writeUInt32LE(id, 1), 5)
    this.#busy = false
  }
  /** Closes without waiting for the server; what is under way fails. Idempotent. */
  close(): void {
    this.#closed = true
    this.#socket.destroy()
  }

  async #prepare(sql: string): Promise<number> {
    const text = Buffer.from(sql, 'utf8')
    this.#send(COM_STMT_PREPARE, (body) => text.copy(body, 1), 1 + text.length)
    await this.#payload(sql)
    const bytes = this.#buffer
    const id = bytes.readUInt32LE(this.#start + 1)
    const columns = bytes.readUInt16LE(this.#start + 5)
    const parameters = bytes.readUInt16LE(this.#start + 7)
    for (const definitions of [parameters, columns])
      if (definitions > 0) for (let i = 0; i <= definitions; i++) await this.#payload(sql)
    return id
  }
  #send(command: number, fill: (body: Buffer) => unknown, size = 10): void {
    const packet = Buffer.alloc(4 + size)
    packet.writeUIntLE(size, 0, 3)
    packet[4] = command
    fill(packet.subarray(4))
    this.#socket.write(packet)
  }

  // ── packets ────────────────────────────────────────────────────────────────

  /** The next payload, which is no error. */
  async #payload(sql: string): Promise<void> {
    while (!this.#next()) await this.#more()
    if (this.#buffer[this.#start] === ERR) throw this.#refused(sql)
  }
  #refused(sql: string): SluiceError {
    const bytes = this.#buffer
    const at = this.#start + 3
    const text = bytes.toString('utf8', bytes[at] === 0x23 ? at + 6 : at, this.#end)
    const what = sql.length > 200 ? `${sql.slice(0, 200)}…` : sql
    return serverFailure(bytes.readUInt16LE(this.#start + 1), text, `${this.#where}: ${what}`)
  }
  /** Moves to the next payload; false until it is there as a whole. Joins packets in place. */
  #next(): boolean {
    const bytes = this.#buffer
    let at = this.#at
    for (;;) {
      if (this.#limit - at < 4) return false
      const length = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16)
      if (this.#limit - at - 4 < length) return false
      at += 4 + length
      if (length < FULL) break
    }
    this.#start = this.#at + 4
    this.#end = at
    if (at - this.#at > FULL) this.#join()
    this.#at = at
    return true
  }
  #join(): void {
    const bytes = this.#buffer
    let to = this.#start
    for (let at = this.#at; at < this.#end;) {
      const length = bytes.readUIntLE(at, 3)
      bytes.copyWithin(to, at + 4, at + 4 + length)
      to += length
      at += 4 + length
    }
    this.#end = to
  }
  async #more(): Promise<void> {
    let cause: unknown
    try {
      const { done, value } = await this.#chunks.next()
      if (done !== true && !this.#closed) return this.#append(value)
    } catch (error) {
      cause = error
    }
    this.#socket.destroy()
    const text = cause instanceof Error ? cause.message : 'the connection was closed'
    throw new SluiceError('STREAM_ENDED', `${this.#where}: ${text}`, { cause })
  }
  #append(chunk: Buffer): void {
    if (this.#limit + chunk.length > this.#buffer.length) {
      const left = this.#limit - this.#at
      const needed = left + chunk.length
      const roomy = needed <= this.#buffer.length
      const target = roomy ? this.#buffer : Buffer.allocUnsafeSlow(needed * 2)
      this.#buffer.copy(target, 0, this.#at, this.#limit)
      this.#buffer = target
      this.#limit = left
      this.#at = 0
    }
    chunk.copy(this.#buffer, this.#limit)
    this.#limit += chunk.length
  }
}

/** A packed number at `at`, and where it ends. */
function packed(bytes: Buffer, at: number): { readonly value: number; readonly end: number } {
  const first = bytes[at]!
  if (first < 251) return { value: first, end: at + 1 }
  const size = first === 252 ? 2 : first === 253 ? 3 : 6
  return { value: bytes.readUIntLE(at + 1, size), end: at + 1 + (size === 6 ? 8 : size) }
}

const FIXED_BYTES = 13

/**
 * Texts catalog, schema, table, original table, name, original name · of MariaDB another one, what type it is in more detail ·
 * 0x0c · u16 charset · u32 length · u8 type · …
 */
function readColumn(bytes: Buffer, start: number, last: number): ResultColumn {
  let at = start
  let name = ''
  for (let i = 0; i < 6; i++) {
    const { value, end } = packed(bytes, at)
    if (i === 4) name = bytes.toString('utf8', end, end + value)
    at = end + value
  }
  if (last - at > FIXED_BYTES) {
    const { value, end } = packed(bytes, at)
    at = end + value
  }
  return { name, charset: bytes.readUInt16LE(at + 1), type: bytes[at + 7]! }
}
