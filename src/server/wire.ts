/**
 * The Canal wire below the entries: framing, the Packet envelope, every request and reply, and the password scramble.
 * Both directions, for the server and for the SDK. Guarantees: bytes become exactly what Java's generated classes
 * write (a field with explicit presence is written even when zero, any other is left out when zero), garbage becomes
 * SluiceError WIRE_MALFORMED and nothing else. Must not know sockets, sessions or the store.
 *
 *   frame   = int32 length, big-endian; then so many bytes of one Packet
 *   Packet  = 1 magic_number? · 2 version? · 3 type · 4 compression? · 5 body bytes      (? = explicit presence)
 *
 * Facts: CanalProtocol.proto of Canal 1.1.x, which is proto3.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { SluiceError } from '../errors.ts'
import { Out } from '../out.ts'
import {
  FieldReader,
  bytesTag,
  putBigint,
  putBytesField,
  putIntField,
  putTextField,
  varintTag,
} from '../protobuf.ts'

export const packetTypes = {
  HANDSHAKE: 1,
  CLIENTAUTHENTICATION: 2,
  ACK: 3,
  SUBSCRIPTION: 4,
  UNSUBSCRIPTION: 5,
  GET: 6,
  MESSAGES: 7,
  CLIENTACK: 8,
  SHUTDOWN: 9,
  DUMP: 10,
  HEARTBEAT: 11,
  CLIENTROLLBACK: 12,
} as const
export const COMPRESSION_NONE = 1
export const SEED_BYTES = 8
/** batch_id of a MESSAGES reply that brings nothing. */
export const EMPTY_BATCH = -1n

// ── framing ──────────────────────────────────────────────────────────────────

const TRUSTED_BYTES = 4 * 1024 * 1024

/**
 * Cuts an inbound byte stream into packets, whatever its chunks. Copies only packets that span chunks; a stated length
 * over 4 MiB is believed, and its memory taken, only as the bytes arrive.
 */
export class Framer {
  readonly #bytesMax: number
  #chunk: Buffer = Buffer.alloc(0)
  #at = 0
  #head = 0
  #headBytes = 0
  #packet: Buffer | undefined
  #length = 0
  #have = 0
  /** @param bytesMax the longest packet accepted, its 4 length bytes not counted */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }
  /** Whether a packet has begun and is not complete. */
  get partial(): boolean {
    return this.#headBytes > 0
  }
  /** Hands over the next chunk; `next()` must have returned undefined since the last one. */
  push(chunk: Buffer): void {
    this.#chunk = chunk
    this.#at = 0
  }
  /**
   * One packet without its length, or undefined when more bytes are needed. The view stays valid; it may share the
   * chunk's memory.
   * @throws SluiceError WIRE_MALFORMED when the length is negative or over the limit; the stream cannot be read further
   */
  next(): Buffer | undefined {
    while (this.#headBytes < 4) {
      if (this.#at >= this.#chunk.length) return undefined
      this.#head = (this.#head << 8) | this.#chunk[this.#at++]!
      if (++this.#headBytes === 4) this.#open()
    }
    const left = this.#chunk.length - this.#at
    const missing = this.#length - this.#have
    if (this.#packet === undefined && left >= missing) {
      const whole = this.#chunk.subarray(this.#at, (this.#at += missing))
      return this.#close(whole)
    }
    if (left === 0) return undefined
    const take = Math.min(left, missing)
    this.#room(take)
    this.#chunk.copy(this.#packet!, this.#have, this.#at, this.#at + take)
    this.#at += take
    this.#have += take
    return this.#have === this.#length ? this.#close(this.#packet!) : undefined
  }
  #open(): void {
    this.#length = this.#head
    if (this.#length >= 0 && this.#length <= this.#bytesMax) return
    throw new SluiceError(
      'WIRE_MALFORMED',
      `expected a packet length of 0 to ${this.#bytesMax} bytes, got ${this.#length}` +
        ` (bytes ${(this.#length >>> 0).toString(16).padStart(8, '0')})`,
    )
  }
  #room(take: number): void {
    const packet = this.#packet
    const need = this.#have + take
    if (packet && packet.length >= need) return
    const trusted = Math.max(need, 2 * this.#have, TRUSTED_BYTES)
    const next = Buffer.allocUnsafeSlow(Math.min(this.#length, trusted))
    packet?.copy(next, 0, 0, this.#have)
    this.#packet = next
  }
  #close(packet: Buffer): Buffer {
    this.#packet = undefined
    this.#head = this.#headBytes = this.#length = this.#have = 0
    return packet
  }
}

// ── Packet ───────────────────────────────────────────────────────────────────

export interface Packet {
  readonly magicNumber: number | undefined
  readonly version: number | undefined
  readonly type: number // of `packetTypes`; 0 where the peer sent none
  readonly compression: number | undefined
  readonly body: Buffer
}

const NOTHING: Buffer = Buffer.alloc(0)

/** @throws SluiceError WIRE_MALFORMED, as every reader here */
export function readPacket(bytes: Buffer): Packet {
  let magicNumber: number | undefined
  let version: number | undefined
  let compression: number | undefined
  let type = 0
  let body = NOTHING
  const r = new FieldReader(bytes)
  while (r.next()) {
    if (r.tag === varintTag(1)) magicNumber = r.int32()
    else if (r.tag === varintTag(2)) version = r.int32()
    else if (r.tag === varintTag(3)) type = r.int32()
    else if (r.tag === varintTag(4)) compression = r.int32()
    else if (r.tag === bytesTag(5)) body = r.view()
    else r.skip()
  }
  return { magicNumber, version, type, compression, body }
}

/** A whole frame, its 4 length bytes included. Servers say version 1 (except in raw MESSAGES), clients none. */
export function framePacket(type: number, body: Uint8Array, version?: number): Buffer {
  const out = new Out(body.length + 32)
  out.at = 4
  if (version !== undefined) putIntField(out, 2, version)
  if (type !== 0) putIntField(out, 3, type)
  putBytesField(out, 5, body)
  out.buf.writeInt32BE(out.at - 4, 0)
  return out.buf.subarray(0, out.at)
}

function message(write: (out: Out) => void): Buffer {
  const out = new Out(256)
  write(out)
  return out.buf.subarray(0, out.at)
}
function optional(out: Out, field: number, v: number | undefined): void {
  if (v !== undefined) putIntField(out, field, v)
}
function nonEmpty(out: Out, field: number, text: string): void {
  if (text !== '') putTextField(out, field, text)
}
function nonZero(out: Out, field: number, v: number): void {
  if (v !== 0) putIntField(out, field, v)
}
function nonZeroBigint(out: Out, field: number, v: bigint): void {
  if (v === 0n) return
  out.ensure(1)
  out.u8(varintTag(field))
  putBigint(out, v)
}

// ── Handshake: 1 communication_encoding? · 2 seeds · 3 supported_compressions ──

export interface Handshake {
  readonly communicationEncoding: string | undefined
  readonly seeds: Buffer
  readonly supportedCompressions: number
}
export function readHandshake(body: Buffer): Handshake {
  let communicationEncoding: string | undefined
  let seeds = NOTHING
  let supportedCompressions = 0
  const r = new FieldReader(body)
  while (r.next()) {
    if (r.tag === bytesTag(1)) communicationEncoding = r.text()
    else if (r.tag === bytesTag(2)) seeds = r.view()
    else if (r.tag === varintTag(3)) supportedCompressions = r.int32()
    else r.skip()
  }
  return { communicationEncoding, seeds, supportedCompressions }
}
export function writeHandshake(seeds: Uint8Array): Buffer {
  return message((out) => putBytesField(out, 2, seeds))
}

// ── ClientAuth: 1 username · 2 password bytes · 3 net_read_timeout? · 4 net_write_timeout? ·
//    5 destination · 6 client_id · 7 filter · 8 start_timestamp                              ──

export interface ClientAuth {
  readonly username: string
  readonly password: Buffer // 40 hex characters as ASCII, or empty
  readonly readTimeoutMs: number | undefined
  readonly writeTimeoutMs: number | undefined
  readonly destination: string // not empty: subscribes at once
  readonly clientId: string
  readonly filter: string
  readonly startTimestamp: bigint // read and ignored by servers
}
export function readClientAuth(body: Buffer): ClientAuth {
  let username = ''
  let password = NOTHING
  let readTimeoutMs: number | undefined
  let writeTimeoutMs: number | undefined
  let destination = ''
  let clientId = ''
  let filter = ''
  let startTimestamp = 0n
  const r = new FieldReader(body)
  while (r.next()) {
    if (r.tag === bytesTag(1)) username = r.text()
    else if (r.tag === bytesTag(2)) password = r.view()
    else if (r.tag === varintTag(3)) readTimeoutMs = r.int32()
    else if (r.tag === varintTag(4)) writeTimeoutMs = r.int32()
    else if (r.tag === bytesTag(5)) destination = r.text()
    else if (r.tag === bytesTag(6)) clientId = r.text()
    else if (r.tag === bytesTag(7)) filter = r.text()
    else if (r.tag === varintTag(8)) startTimestamp = r.bigint()
    else r.skip()
  }
  return {
    username,
    password,
    readTimeoutMs,
    writeTimeoutMs,
    destination,
    clientId,
    filter,
    startTimestamp,
  }
}
export function writeClientAuth(auth: ClientAuth): Buffer {
  return message((out) => {
    nonEmpty(out, 1, auth.username)
    putBytesField(out, 2, auth.password)
    optional(out, 3, auth.readTimeoutMs)
    optional(out, 4, auth.writeTimeoutMs)
    nonEmpty(out, 5, auth.destination)
    nonEmpty(out, 6, auth.clientId)
    nonEmpty(out, 7, auth.filter)
    nonZeroBigint(out, 8, auth.startTimestamp)
  })
}

// ── Ack: 1 error_code? · 2 error_message ─────────────────────────────────────

export interface Ack {
  readonly errorCode: number | undefined // absent or 0: ok
  readonly errorMessage: string
}
export function readAck(body: Buffer): Ack {
  let errorCode: number | undefined
  let errorMessage = ''
  const r = new FieldReader(body)
  while (r.next()) {
    if (r.tag === varintTag(1)) errorCode = r.int32()
    else if (r.tag === bytesTag(2)) errorMessage = r.text()
    else r.skip()
  }
  return { errorCode, errorMessage }
}
export function writeAck(ack: Ack): Buffer {
  return message((out) => {
    optional(out, 1, ack.errorCode)
    nonEmpty(out, 2, ack.errorMessage)
  })
}

// ── Sub and Unsub: 1 destination · 2 client_id · 7 filter ────────────────────

export interface Sub {
  readonly destination: string
  readonly clientId: string
  readonly filter: string
}
export function readSub(body: Buffer): Sub {
  let destination = ''
  let clientId = ''
  let filter = ''
  const r = new FieldReader(body)
  while (r.next()) {
    if (r.tag === bytesTag(1)) destination = r.text()
    else if (r.tag === bytesTag(2)) clientId = r.text()
    else if (r.tag === bytesTag(7)) filter = r.text()
    else r.skip()
  }
  return { destination, clientId, filter }
}
export function writeSub(sub: Sub): Buffer {
  return message((out) => {
    nonEmpty(out, 1, sub.destination)
    nonEmpty(out, 2, sub.clientId)
    nonEmpty(out, 7, sub.filter)
  })
}

// ── Get: 1 destination · 2 client_id · 3 fetch_size · 4 timeout? · 5 unit? · 6 auto_ack? ──

export interface Get {
  readonly destination: string
  readonly clientId: string
  readonly fetchSize: number
  readonly timeout: number | undefined
  readonly unit: number | undefined // ordinal of Java's TimeUnit: 0 ns, 1 µs, 2 ms, 3 s, 4 min, 5 h, 6 days
  readonly autoAck: boolean | undefined // ignored by servers
}
export function readGet(body: Buffer): Get {
  let destination = ''
  let clientId = ''
  let fetchSize = 0
  let timeout: number | undefined
  let unit: number | undefined
  let autoAck: boolean | undefined
  const r = new FieldReader(body)
  while (r.next()) {
    if (r.tag === bytesTag(1)) destination = r.text()
    else if (r.tag === bytesTag(2)) clientId = r.text()
    else if (r.tag === varintTag(3)) fetchSize = r.int32()
    else if (r.tag === varintTag(4)) timeout = r.int64()
    else if (r.tag === varintTag(5)) unit = r.int32()
    else if (r.tag === varintTag(6)) autoAck = r.bool()
    else r.skip()
  }
  return { destination, clientId, fetchSize, timeout, unit, autoAck }
}
export function writeGet(get: Get): Buffer {
  return message((out) => {
    nonEmpty(out, 1, get.destination)
    nonEmpty(out, 2, get.clientId)
    nonZero(out, 3, get.fetchSize)
    optional(out, 4, get.timeout)
    optional(out, 5, get.unit)
    optional(out, 6, get.autoAck === undefined ? undefined : Number(get.autoAck))
  })
}

const unitMs = [1e-6, 1e-3, 1, 1000, 60_000, 3_600_000, 86_400_000]

/** How long a Get waits, in ms: 0 for a poll, Infinity for no limit. Unknown units count as milliseconds. */
export function waitMs(get: Pick<Get, 'timeout' | 'unit'>): number {
  const timeout = get.timeout ?? 0
  if (timeout === -1) return 0
  if (timeout <= 0) return Infinity
  return Math.ceil(timeout * (unitMs[get.unit ?? 2] ?? 1))
}

// ── Messages: 1 batch_id · 2 messages bytes, repeated; each one serialized Entry ──

/**
 * Walks the entries of a MESSAGES body; `start` and `end` are those of the entry in `bytes` after `next()`. The whole
 * frame is checked once by the constructor, so that a truncated reply is noticed before its first entry is used.
 */
export class MessagesReader {
  readonly bytes: Buffer
  readonly batchId: bigint
  readonly count: number
  start = 0
  end = 0
  readonly #fields: FieldReader
  constructor(body: Buffer) {
    this.bytes = body
    let batchId = 0n
    let count = 0
    const r = new FieldReader(body)
    while (r.next()) {
      if (r.tag === varintTag(1)) batchId = r.bigint()
      else {
        if (r.tag === bytesTag(2)) count++
        r.skip()
      }
    }
    this.batchId = batchId
    this.count = count
    r.reset(body, 0, body.length)
    this.#fields = r
  }
  next(): boolean {
    const r = this.#fields
    while (r.next()) {
      r.skip()
      if (r.tag !== bytesTag(2)) continue
      this.start = r.start
      this.end = r.stop
      return true
    }
    return false
  }
}
/** Small replies and tests; the server assembles big ones in place. */
export function writeMessages(batchId: bigint, entries: readonly Uint8Array[]): Buffer {
  return message((out) => {
    nonZeroBigint(out, 1, batchId)
    for (const entry of entries) {
      out.ensure(12)
      out.u8(bytesTag(2))
      out.varint(entry.length)
      out.bytes(entry, 0, entry.length)
    }
  })
}

// ── ClientAck and ClientRollback: 1 destination · 2 client_id · 3 batch_id ───

export interface ClientAck {
  readonly destination: string
  readonly clientId: string
  readonly batchId: bigint
}
export function readClientAck(body: Buffer): ClientAck {
  let destination = ''
  let clientId = ''
  let batchId = 0n
  const r = new FieldReader(body)
  while (r.next()) {
    if (r.tag === bytesTag(1)) destination = r.text()
    else if (r.tag === bytesTag(2)) clientId = r.text()
    else if (r.tag === varintTag(3)) batchId = r.bigint()
    else r.skip()
  }
  return { destination, clientId, batchId }
}
export function writeClientAck(ack: ClientAck): Buffer {
  return message((out) => {
    nonEmpty(out, 1, ack.destination)
    nonEmpty(out, 2, ack.clientId)
    nonZeroBigint(out, 3, ack.batchId)
  })
}
/** batch_id 0: everything outstanding. */
export type ClientRollback = ClientAck
export const readClientRollback = readClientAck
export const writeClientRollback = writeClientAck

// ── password scramble ────────────────────────────────────────────────────────
//   stage1 = SHA1(plain)   stage2 = SHA1(stage1), what the server keeps
//   token  = SHA1(seed || stage2) XOR stage1, sent as 40 hex characters

const sha1 = (...parts: Uint8Array[]): Buffer => {
  const hash = createHash('sha1')
  for (const part of parts) hash.update(part)
  return hash.digest()
}
const xor = (a: Buffer, b: Buffer): Buffer => Buffer.from(a.map((v, i) => v ^ b[i]!))

/** The hex text of SHA1(SHA1(plain)), as `canal.passwd` and MySQL's PASSWORD() have it, lower case. */
export function passwordHash(plain: string): string {
  return sha1(sha1(Buffer.from(plain))).toString('hex')
}

/** What a client sends as ClientAuth.password. An empty password is scrambled too, as Java's client does. */
export function scramble(plain: string, seed: Uint8Array): Buffer {
  const stage1 = sha1(Buffer.from(plain))
  const token = xor(sha1(seed, sha1(stage1)), stage1)
  return Buffer.from(token.toString('hex'), 'latin1')
}

/**
 * Whether `token` (ClientAuth.password) proves knowledge of the password behind `hash` (hex of SHA1(SHA1(plain))).
 * @throws SluiceError WIRE_MALFORMED when the token is not 40 hex characters
 */
export function checkScramble(token: Buffer, seed: Uint8Array, hash: string): boolean {
  const text = token.toString('latin1')
  if (!/^[0-9a-f]{40}$/i.test(text)) {
    throw new SluiceError(
      'WIRE_MALFORMED',
      `expected a password scramble of 40 hexadecimal characters, got ${token.length} bytes`,
    )
  }
  const stage2 = Buffer.from(hash, 'hex')
  const stage1 = xor(Buffer.from(text, 'hex'), sha1(seed, stage2))
  return timingSafeEqual(sha1(stage1), stage2)
}
