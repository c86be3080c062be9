/**
 * GTIDs and sets of them, MySQL's and MariaDB's. MariaDB's: a number counts up in a domain, whoever writes, so what was
 * read of a domain is all up to its last GTID. Here that is a sid (the domain) with one interval from 1 on, and the server
 * that wrote the last one, which MariaDB wants to hear; the arithmetic is the same. A set has one kind or the other.
 *
 * Of MySQL: the text MySQL prints and reads, the bytes of COM_BINLOG_DUMP_GTID and of the
 * PREVIOUS_GTIDS event, and set arithmetic. Exact over MySQL's whole range (1 to 2^63 - 2), tags (MySQL 8.3+) included.
 * A set is cheap to clone (no interval is copied) and cheap to extend by the next number in sequence, because both
 * happen per transaction. Pure; knows nothing of events, positions or connections.
 *
 * The bytes (sql/rpl_gtid_set.cc, Gtid_set::encode), all little-endian:
 *
 *   u64 count of sids; its upper byte says the format:
 *       0: the count is the whole number, no tags        1 (MySQL 8.3+): the count is in bytes 1..6, byte 0 is 1 again
 *   per sid:  16 bytes uuid · [format 1: tag as varint length (length << 1 in one byte) and its text]
 *             u64 count of intervals · per interval: i64 first, i64 past the last
 */
import { SluiceError, assert } from './errors.ts'

export interface Gtid {
  readonly sid: string // lower-case uuid, or "uuid:tag"; of MariaDB "domain-server"
  readonly gno: bigint
}

/** The number that no GTID reaches: 2^63 - 1 (GNO_END). */
const GNO_END = 0x7fffffffffffffffn
const DASHED = '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'
const UUID = new RegExp(`^(?:${DASHED}|\\{${DASHED}\\}|[0-9a-f]{32})$`)
const TAG = /^[a-z_][a-z0-9_]{0,31}$/
const INTERVAL = /^(\d+)(?:\s*-\s*(\d+))?$/

/** A GTID of MariaDB's: domain, server, number. */
const DOMAIN_GTID = /^(\d{1,10})-(\d{1,10})-(\d{1,20})$/
const UINT64_MAX = 0xffffffffffffffffn

/** A sid, or a key of a set, is a uuid or is MariaDB's, which is shorter. */
export const isMariadb = (sid: string): boolean => sid.length < 32
const domainOf = (sid: string): string => sid.slice(0, sid.indexOf('-'))

/** "uuid:gno", "uuid:tag:gno" or "domain-server-gno", as the server prints it. */
export function formatGtid(gtid: Gtid): string {
  return `${gtid.sid}${isMariadb(gtid.sid) ? '-' : ':'}${gtid.gno}`
}

/** Intervals as one flat list: first, last, first, last … (both inclusive), ascending, never touching. */
type Intervals = readonly bigint[]

/**
 * The intervals of one sid: those before the newest in a list that is never changed in place and therefore shared
 * between clones, the newest in two fields, so that the next number in sequence changes one field.
 */
class Runs {
  older: Intervals
  first: bigint
  last: bigint
  writer: string // of a domain: the server of the last one
  constructor(older: Intervals, first: bigint, last: bigint, writer = '') {
    this.older = older
    this.first = first
    this.last = last
    this.writer = writer
  }
  static of(all: Intervals, writer = ''): Runs {
    return new Runs(all.slice(0, -2), all.at(-2)!, all.at(-1)!, writer)
  }
  all(): Intervals {
    return [...this.older, this.first, this.last]
  }
  clone(): Runs {
    return new Runs(this.older, this.first, this.last, this.writer)
  }
  contains(gno: bigint): boolean {
    if (gno >= this.first) return gno <= this.last
    const { older } = this
    let low = 0
    let high = older.length / 2
    while (low < high) {
      const middle = (low + high) >>> 1
      if (older[middle * 2 + 1]! < gno) low = middle + 1
      else high = middle
    }
    return low * 2 < older.length && older[low * 2]! <= gno
  }
  add(gno: bigint): void {
    if (gno === this.last + 1n) this.last = gno
    else if (gno > this.last) {
      this.older = this.all()
      this.first = gno
      this.last = gno
    } else if (!this.contains(gno)) this.merge([gno, gno])
  }
  merge(other: Intervals): void {
    const { older, first, last } = Runs.of(unite(this.all(), other))
    this.older = older
    this.first = first
    this.last = last
  }
}

function unite(a: Intervals, b: Intervals): Intervals {
  const out: bigint[] = []
  let i = 0
  let j = 0
  while (i < a.length || j < b.length) {
    const takeA = j >= b.length || (i < a.length && a[i]! <= b[j]!)
    const first = takeA ? a[i]! : b[j]!
    const last = takeA ? a[i + 1]! : b[j + 1]!
    if (takeA) i += 2
    else j += 2
    const end = out.length - 1
    if (end > 0 && first <= out[end]! + 1n) {
      if (last > out[end]!) out[end] = last
    } else out.push(first, last)
  }
  return out
}

function difference(a: Intervals, b: Intervals): Intervals {
  const out: bigint[] = []
  let j = 0
  for (let i = 0; i < a.length; i += 2) {
    let first = a[i]!
    const last = a[i + 1]!
    while (j < b.length && b[j + 1]! < first) j += 2
    for (; j < b.length && b[j]! <= last; j += 2) {
      if (b[j]! > first) out.push(first, b[j]! - 1n)
      first = b[j + 1]! + 1n
      if (first > last) break
    }
    if (first <= last) out.push(first, last)
  }
  return out
}

function covers(a: Intervals, b: Intervals): boolean {
  let i = 0
  for (let j = 0; j < b.length; j += 2) {
    while (i < a.length && a[i + 1]! < b[j]!) i += 2
    if (i >= a.length || a[i]! > b[j]! || a[i + 1]! < b[j + 1]!) return false
  }
  return true
}

/** A set of GTIDs. Only `add` and `merge` change a set; everything else returns a new one. */
export class GtidSet {
  /** Never holds an empty entry. */
  #sids = new Map<string, Runs>()

  /**
   * Reads what MySQL 9 reads: "uuid:1-5:7,uuid:tag:1", spaces and upper case allowed, intervals in any order, empty
   * ones ("5-3") ignored; or what MariaDB reads: "0-1-100,7-2-5". Throws GTID_MALFORMED.
   */
  static parse(text: string): GtidSet {
    const set = new GtidSet()
    for (const part of text.split(',')) {
      const trimmed = part.trim()
      if (trimmed === '') continue
      const gtid = DOMAIN_GTID.exec(trimmed)
      if (gtid) set.#parseDomain(gtid)
      else set.#parsePart(part)
      if (set.kind !== undefined && (set.kind === 'mariadb') !== (gtid !== null))
        throw new SluiceError(
          'GTID_MALFORMED',
          `GTID set: expected GTIDs of MySQL or of MariaDB, got both: '${text.trim().slice(0, 200)}'`,
        )
    }
    return set
  }

  #parseDomain([text, domain, server, number]: RegExpExecArray): void {
    const gno = BigInt(number!)
    if (Number(domain) > 0xffffffff || Number(server) > 0xffffffff || gno > UINT64_MAX)
      throw new SluiceError(
        'GTID_MALFORMED',
        `GTID set: expected domain and server below 2^32 and a number below 2^64, got '${text}'`,
      )
    if (gno > 0n) this.#addToDomain(String(Number(domain)), String(Number(server)), gno)
  }

  /** Whose GTIDs it has; undefined where it is empty. */
  get kind(): 'mysql' | 'mariadb' | undefined {
    for (const sid of this.#sids.keys()) return isMariadb(sid) ? 'mariadb' : 'mysql'
    return undefined
  }

  #parsePart(part: string): void {
    const items = part.split(':')
    const uuid = items[0]!.trim().toLowerCase()
    const malformed = (expected: string, item: string): SluiceError =>
      new SluiceError(
        'GTID_MALFORMED',
        `GTID set: expected ${expected}, got '${item.slice(0, 80)}' in '${part.trim().slice(0, 200)}'`,
      )
    if (!UUID.test(uuid)) throw malformed('a server uuid', uuid)
    const base = uuidText(Buffer.from(uuid.replace(/[{}-]/g, ''), 'hex'), 0)
    let sid = base
    let pairs: [bigint, bigint][] = []
    for (const raw of items.slice(1)) {
      const item = raw.trim()
      const interval = INTERVAL.exec(item)
      if (interval) {
        const first = BigInt(interval[1]!)
        const last = interval[2] === undefined ? first : BigInt(interval[2])
        if (first < 1n || first >= GNO_END || last >= GNO_END)
          throw malformed(`numbers from 1 to ${GNO_END - 1n}`, item)
        if (first <= last) pairs.push([first, last])
      } else if (TAG.test(item.toLowerCase())) {
        this.#mergePairs(sid, pairs)
        pairs = []
        sid = `${base}:${item.toLowerCase()}`
      } else throw malformed('an interval or a tag', item)
    }
    this.#mergePairs(sid, pairs)
  }

  /** In any order, overlapping or not: sorted once, so that a long text costs no more than its sorting. */
  #mergePairs(sid: string, pairs: [bigint, bigint][]): void {
    pairs.sort((a, b) => (a[0] < b[0] ? -1 : 1))
    if (pairs.length > 0) this.#merge(sid, unite(pairs.flat(), []))
  }

  /**
   * Reads the bytes drawn above from bytes[at, end), which they must fill. Throws GTID_MALFORMED.
   */
  static decode(bytes: Buffer, at: number, end: number): GtidSet {
    const set = new GtidSet()
    const need = (count: number, what: string): void => {
      if (!(count <= end - at))
        throw new SluiceError(
          'GTID_MALFORMED',
          `encoded GTID set: expected ${count} bytes of ${what}, ${end - at} are left`,
        )
    }
    need(8, 'the sid count')
    const format = bytes[at + 7]!
    if (format > 1)
      throw new SluiceError(
        'GTID_MALFORMED',
        `encoded GTID set: expected format 0 or 1, got ${format}`,
      )
    const header = bytes.readBigUInt64LE(at)
    const sids = Number(format === 1 ? (header >> 8n) & 0xffffffffffffn : header)
    at += 8
    for (let i = 0; i < sids; i++) {
      need(16, 'a server uuid')
      let sid = uuidText(bytes, at)
      at += 16
      if (format === 1) {
        need(1, 'a tag length')
        const length = bytes[at]! >> 1
        const tagEnd = at + 1 + length
        need(1 + length, 'a tag')
        const tag = bytes.toString('latin1', at + 1, tagEnd)
        if (bytes[at]! & 1 || (length > 0 && !TAG.test(tag)))
          throw new SluiceError(
            'GTID_MALFORMED',
            `encoded GTID set: expected a tag, got ${JSON.stringify(tag)}`,
          )
        if (length > 0) sid += `:${tag}`
        at = tagEnd
      }
      if (set.#sids.has(sid))
        throw new SluiceError('GTID_MALFORMED', `encoded GTID set: ${sid} stands there twice`)
      need(8, 'an interval count')
      const count = Number(bytes.readBigUInt64LE(at))
      at += 8
      need(count * 16, `${count} intervals`)
      at = set.#decodeIntervals(sid, bytes, at, count)
    }
    if (at !== end)
      throw new SluiceError(
        'GTID_MALFORMED',
        `encoded GTID set: ${end - at} bytes are left after ${sids} sids`,
      )
    return set
  }

  #decodeIntervals(sid: string, bytes: Buffer, at: number, count: number): number {
    const all: bigint[] = []
    for (let i = 0; i < count; i++, at += 16) {
      const first = bytes.readBigInt64LE(at)
      const past = bytes.readBigInt64LE(at + 8)
      const end = all.at(-1)
      if (first < 1n || past <= first || (end !== undefined && first <= end))
        throw new SluiceError(
          'GTID_MALFORMED',
          `encoded GTID set: expected ascending intervals, got ${first} to ${past}`,
        )
      if (end !== undefined && first === end + 1n) all[all.length - 1] = past - 1n
      else all.push(first, past - 1n)
    }
    if (count > 0) this.#merge(sid, all)
    return at
  }

  /** The bytes drawn above; format 1 only when there is a tag, because servers before 8.3 refuse it. */
  encode(): Buffer {
    const sids = this.#sorted()
    assert(this.kind !== 'mariadb', 'GTIDs of MariaDB have no form in bytes')
    const tagged = sids.some(([sid]) => sid.length > 36)
    let size = 8
    for (const [sid, runs] of sids)
      size += 16 + (tagged ? 1 + Math.max(0, sid.length - 37) : 0) + 8 + runs.older.length * 8 + 16
    const out = Buffer.alloc(size)
    const count = BigInt(sids.length)
    let at = out.writeBigUInt64LE(tagged ? (1n << 56n) | (count << 8n) | 1n : count, 0)
    for (const [sid, runs] of sids) {
      at += out.write(sid.slice(0, 36).replaceAll('-', ''), at, 'hex')
      if (tagged) {
        const tag = sid.slice(37)
        at = out.writeUInt8(tag.length << 1, at)
        at += out.write(tag, at, 'latin1')
      }
      const all = runs.all()
      at = out.writeBigUInt64LE(BigInt(all.length / 2), at)
      for (let i = 0; i < all.length; i += 2) {
        at = out.writeBigInt64LE(all[i]!, at)
        at = out.writeBigInt64LE(all[i + 1]! + 1n, at)
      }
    }
    return out
  }

  get empty(): boolean {
    return this.#sids.size === 0
  }

  contains({ sid, gno }: Gtid): boolean {
    return this.#sids.get(isMariadb(sid) ? domainOf(sid) : sid)?.contains(gno) ?? false
  }

  /** Whether every GTID of `set` is in this one: MySQL's GTID_SUBSET(set, this). */
  includes(set: GtidSet): boolean {
    for (const [sid, runs] of set.#sids) {
      const mine = this.#sids.get(sid)
      if (!mine || !covers(mine.all(), runs.all())) return false
    }
    return true
  }

  /** This without `set`: MySQL's GTID_SUBTRACT(this, set). */
  subtract(set: GtidSet): GtidSet {
    const out = new GtidSet()
    for (const [sid, runs] of this.#sids) {
      const other = set.#sids.get(sid)
      const left = other ? difference(runs.all(), other.all()) : undefined
      if (!left) out.#sids.set(sid, runs.clone())
      else if (left.length > 0) out.#sids.set(sid, Runs.of(left, runs.writer))
    }
    return out
  }

  union(set: GtidSet): GtidSet {
    const out = this.clone()
    out.merge(set)
    return out
  }

  /** Costs one small object per sid, however many intervals there are. */
  clone(): GtidSet {
    const out = new GtidSet()
    for (const [sid, runs] of this.#sids) out.#sids.set(sid, runs.clone())
    return out
  }

  /** Adds one GTID; the next number in sequence costs O(1) and copies nothing. */
  add(gtid: Gtid): void {
    const { sid } = gtid
    if (isMariadb(sid)) {
      const domain = domainOf(sid)
      return this.#addToDomain(domain, sid.slice(domain.length + 1), gtid.gno)
    }
    const runs = this.#sids.get(gtid.sid)
    if (runs) runs.add(gtid.gno)
    else this.#sids.set(gtid.sid, new Runs([], gtid.gno, gtid.gno))
  }

  /** Everything up to this number; one that is lower than what was read says nothing. */
  #addToDomain(domain: string, server: string, gno: bigint): void {
    const runs = this.#sids.get(domain)
    if (!runs) this.#sids.set(domain, new Runs([], 1n, gno, server))
    else if (gno > runs.last) {
      runs.last = gno
      runs.writer = server
    }
  }

  /** Adds every GTID of `set`. */
  merge(set: GtidSet): void {
    for (const [sid, runs] of set.#sids) {
      if (isMariadb(sid)) this.#addToDomain(sid, runs.writer, runs.last)
      else if (this.#sids.has(sid)) this.#merge(sid, runs.all())
      else this.#sids.set(sid, runs.clone())
    }
  }

  #merge(sid: string, all: Intervals): void {
    const runs = this.#sids.get(sid)
    if (runs) runs.merge(all)
    else this.#sids.set(sid, Runs.of(all))
  }

  /** By uuid, then tag, the untagged sid first: a uuid is a prefix of its tagged sids. Domains by number. */
  #sorted(): [string, Runs][] {
    return [...this.#sids].sort(([a], [b]) =>
      isMariadb(a) && isMariadb(b) ? Number(a) - Number(b) : a < b ? -1 : 1,
    )
  }

  /**
   * MySQL's canonical text, without the line breaks it prints after commas: "uuid:1-5:7:tag:1,uuid:3"; or MariaDB's, the
   * last of each domain: "0-1-100,7-2-5".
   */
  toString(): string {
    let text = ''
    let uuid = ''
    for (const [sid, runs] of this.#sorted()) {
      if (isMariadb(sid)) {
        text += `${text === '' ? '' : ','}${sid}-${runs.writer}-${runs.last}`
        continue
      }
      if (sid.startsWith(uuid) && uuid !== '') text += sid.slice(36)
      else text += (text === '' ? '' : ',') + sid
      uuid = sid.slice(0, 36)
      const all = runs.all()
      for (let i = 0; i < all.length; i += 2)
        text += all[i] === all[i + 1] ? `:${all[i]}` : `:${all[i]}-${all[i + 1]}`
    }
    return text
  }
}

const HEX = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'))

/** The text of the 16-byte uuid at `at`; the caller has checked that they are there. */
export function uuidText(bytes: Uint8Array, at: number): string {
  let text = ''
  for (let i = 0; i < 16; i++) {
    if (i === 4 || i === 6 || i === 8 || i === 10) text += '-'
    text += HEX[bytes[at + i]!]
  }
  return text
}
