/**
 * The same transactions from binlog files on disk: for the command line, for tests and for recovery. Reads the files in
 * the order given, in bounded memory. The end of the last file is the end, quietly only between transactions.
 */
import { open, type FileHandle } from 'node:fs/promises'
import { basename } from 'node:path'
import { crc32 } from 'node:zlib'
import {
  CHECKSUM_BYTES,
  FILE_MAGIC,
  FILE_MAGIC_ENCRYPTED,
  FLAG_ARTIFICIAL,
  HEADER_BYTES,
  eventTypes,
  type Format,
} from '../binlog/reader.ts'
import type { Filter, Position, Source } from '../change.ts'
import { SluiceError } from '../errors.ts'
import type { Slabs } from '../slab.ts'
import { Chunks } from './log/events.ts'
import { PART_BYTES } from './mysql.ts'
import type { TableResolver } from './log/tables.ts'
import { readTransactions, type LogInput, type OpenLog } from './transactions.ts'

export interface FilesSourceOptions {
  readonly files: readonly string[] // paths, in the order of the log; names as on the server
  readonly server: string // server_uuid to put into positions
  readonly epoch: number
  readonly catalog: TableResolver
  readonly filter: Filter
  readonly slabs: Slabs
  readonly partBytes?: number | undefined
  readonly onFormat?: ((format: Format) => void) | undefined
}

const MAGIC_BYTES = 4
const CHUNK_BYTES = 256 * 1024

/**
 * Reads binlog files. `from.file` "" is the beginning of the first one. Throws what readTransactions throws, and
 * POSITION_LOST when `from.file` is not among the files or one cannot be read, BINLOG_ENCRYPTED, EVENT_MALFORMED.
 */
export function filesSource(options: FilesSourceOptions): Source {
  return {
    read: (from, signal) => readTransactions(() => openFiles(options, from, signal), signal),
  }
}

async function openFiles(
  options: FilesSourceOptions,
  from: Position,
  signal: AbortSignal,
): Promise<OpenLog> {
  const first =
    from.file === '' ? 0 : options.files.findIndex((path) => basename(path) === from.file)
  if (first < 0) {
    throw new SluiceError(
      'POSITION_LOST',
      `expected ${from.file} among the files, got ${options.files.join(', ')}`,
    )
  }
  const input = new FileInput(options.files.slice(first), signal)
  return Promise.resolve({
    input,
    options: {
      epoch: options.epoch,
      server: options.server,
      catalog: options.catalog,
      filter: options.filter,
      slabs: options.slabs,
      partBytes: options.partBytes ?? PART_BYTES,
      onFormat: (format) => {
        input.checksumBytes = format.checksumBytes
        options.onFormat?.(format)
      },
      from,
      jumps: false,
      early: from.offset > MAGIC_BYTES,
      checksum: false,
    },
  })
}

class FileInput implements LogInput {
  readonly pieces = new Chunks()
  readonly framed = false
  /** Of the format in effect: an event we add must have it too. */
  checksumBytes = 0
  readonly #paths: readonly string[]
  readonly #signal: AbortSignal
  #next = 0 // index of the next file
  #handle: FileHandle | undefined
  #path = ''

  constructor(paths: readonly string[], signal: AbortSignal) {
    this.#paths = paths
    this.#signal = signal
  }

  async more(between: boolean): Promise<boolean> {
    if (this.#signal.aborted) return false
    if (this.#handle) {
      // A chunk is never written again: parts of it may wait in a decompressor.
      const chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES)
      const { bytesRead } = await this.#handle.read(chunk, 0, CHUNK_BYTES)
      if (bytesRead > 0) {
        this.pieces.push(chunk.subarray(0, bytesRead))
        return true
      }
      await this.#handle.close()
      this.#handle = undefined
      if (this.#next === this.#paths.length) return false
      if (!between) {
        throw new SluiceError(
          'EVENT_MALFORMED',
          `${this.#path}: the file ends inside an event, and another file follows`,
        )
      }
    }
    const path = this.#paths[this.#next++]
    if (path === undefined) return false
    await this.#open(path)
    this.pieces.push(rotateTo(basename(path), this.checksumBytes))
    return true
  }

  async #open(path: string): Promise<void> {
    const magic = Buffer.alloc(MAGIC_BYTES)
    try {
      this.#handle = await open(path, 'r')
      await this.#handle.read(magic, 0, MAGIC_BYTES)
    } catch (cause) {
      throw new SluiceError('POSITION_LOST', `${path}: cannot be read: ${String(cause)}`, { cause })
    }
    this.#path = path
    const found = magic.readUInt32LE(0)
    if (found === FILE_MAGIC) return
    if (found === FILE_MAGIC_ENCRYPTED) {
      throw new SluiceError(
        'BINLOG_ENCRYPTED',
        `${path}: the file is encrypted; read it through its server`,
      )
    }
    throw new SluiceError(
      'EVENT_MALFORMED',
      `${path}: expected a binlog file, which begins with fe 62 69 6e, got ${magic.toString('hex')}`,
    )
  }

  close(): void {
    const handle = this.#handle
    this.#handle = undefined
    handle?.close().catch(() => {})
  }
}

/** The artificial ROTATE by which a server begins a file in a dump. */
function rotateTo(file: string, checksumBytes: number): Buffer {
  const name = Buffer.from(file, 'utf8')
  const size = HEADER_BYTES + 8 + name.length
  const event = Buffer.alloc(size + checksumBytes)
  event[4] = eventTypes.ROTATE
  event.writeUInt32LE(event.length, 9)
  event.writeUInt16LE(FLAG_ARTIFICIAL, 17)
  event.writeBigUInt64LE(BigInt(MAGIC_BYTES), HEADER_BYTES)
  name.copy(event, HEADER_BYTES + 8)
  if (checksumBytes === CHECKSUM_BYTES) event.writeUInt32LE(crc32(event.subarray(0, size)), size)
  return event
}
