/**
 * Versions: which of two writes to one target is the newer. A version is the change's place in the log of its instance,
 * counted before any filter, so that the main reader, a catch-up reader, a restart and a worker behind Kafka agree.
 * Versions of different instances never compare.
 *
 *   text   eeee ffffffff oooooooooooo nnnnnnnn rrrrrrrr   (no spaces: 40 hexadecimal digits)
 *          epoch, file number, offset of the transaction's first event, ordinal of the event in it, row in the event
 *
 * Fixed width, so that the order of texts is the order of versions in every target (Lua numbers are doubles, SQL and
 * Redis compare texts by byte).
 */
import { fileNumber, type Position, type RowsChange, type Transaction } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { formatGtid } from '../../gtid.ts'
import { Out } from '../../out.ts'

export const VERSION_LENGTH = 40
/** Of these, that all versions of a transaction have in common. */
const TRANSACTION_LENGTH = 24
/** Below every version there is. */
export const NO_VERSION = '0'.repeat(VERSION_LENGTH)
/** Above every version there is. */
export const VERSION_MAX = 'f'.repeat(VERSION_LENGTH)

export interface Version {
  readonly epoch: number
  readonly file: number
  readonly offset: number
  readonly ordinal: number
  readonly row: number
}

const hex = (n: number, width: number): string => n.toString(16).padStart(width, '0')

/** The part of a version's text that all changes of one transaction share. */
export function versionHead(epoch: number, file: number, offset: number): string {
  return hex(epoch, 4) + hex(file, 8) + hex(offset, 12)
}
/** The part that says where in its transaction a row stands: 16 digits. */
export const versionTail = (ordinal: number, row: number): string =>
  versionPart(ordinal) + versionPart(row)
/** An ordinal, or a row, in a version: 8 digits. Small ones are ready. */
export const versionPart = (n: number): string => small[n] ?? hex(n, 8)
const small = Array.from({ length: 256 }, (_, n) => hex(n, 8))

export function versionText(v: Version): string {
  return versionHead(v.epoch, v.file, v.offset) + versionTail(v.ordinal, v.row)
}

/** Above every version that lies before `end`, and not above any that lies after it. */
export function versionBefore(end: Position): string {
  return versionHead(end.epoch, fileNumber(end.file), end.offset) + versionTail(end.skip, 0)
}

/** Throws SINK_DATA for anything but 40 hexadecimal digits. */
export function parseVersion(text: string): Version {
  if (!/^[0-9a-f]{40}$/.test(text)) {
    throw new SluiceError(
      'SINK_DATA',
      `expected a version of ${VERSION_LENGTH} hexadecimal digits, got ${JSON.stringify(text.slice(0, 80))}`,
    )
  }
  const at = (from: number, to: number): number => Number.parseInt(text.slice(from, to), 16)
  return {
    epoch: at(0, 4),
    file: at(4, 12),
    offset: at(12, 24),
    ordinal: at(24, 32),
    row: at(32, 40),
  }
}

/** A transaction's GTID, else the place of its first event: "uuid:17", "binlog.000003:4567". */
export function transactionId(tx: Transaction): string {
  return tx.gtid === undefined ? `${tx.file}:${tx.offset}` : formatGtid(tx.gtid)
}

/** A row of the log, by what its version and its id are made of. */
interface Numbered {
  readonly tx: Transaction
  readonly change: RowsChange
  readonly row: number // in its rows event
}
/** Versions and ids of rows written as bytes: what the rows of an event share is made once, and what a transaction shares. */
export class RowNames {
  readonly #version = new Out(64)
  readonly #id = new Out(128)
  #of: RowsChange | undefined
  #tx: Transaction | undefined
  #txId = 0 // bytes of the id that are the transaction's

  /** What stands before the row in a version, and before its number in an id: of the row that was told to `see` last. */
  readonly heads: readonly [version: Out, id: Out] = [this.#version, this.#id]

  /** 40 hexadecimal digits. */
  version(row: Numbered, out: Out): void {
    this.see(row)
    out.append(this.#version)
    out.ascii(versionPart(row.row))
  }
  /** "uuid:17/3.0", as SinkRow.id; with escapes where JSON wants them. */
  id(row: Numbered, out: Out): void {
    this.see(row)
    out.append(this.#id)
    out.int(row.row)
  }
  see({ tx, change }: Numbered): void {
    if (change === this.#of) return
    if (tx !== this.#tx) this.#begin(tx)
    this.#of = change
    this.#version.at = TRANSACTION_LENGTH
    this.#version.ascii(versionPart(change.ordinal))
    this.#id.at = this.#txId
    this.#id.int(change.ordinal)
    this.#id.ascii('.')
  }
  #begin(tx: Transaction): void {
    this.#tx = tx
    this.#version.reset()
    this.#version.ascii(versionHead(tx.epoch, fileNumber(tx.file), tx.offset))
    this.#id.reset()
    this.#id.utf8(JSON.stringify(transactionId(tx)).slice(1, -1))
    this.#id.ascii('/')
    this.#txId = this.#id.at
  }
}
