/**
 * `sluice check --second-opinion`: decodes the last stretch of the source's binlog twice, with Sluice and with
 * @vlasky/zongji, and compares every value. What zongji is known not to do, or to do differently, is counted apart,
 * each kind by name; everything else is a difference, and a failure.
 */
import { comparePositions, fileNumber, formatPosition } from '../../change.ts'
import type { Position, Row, RowsChange, Transaction } from '../../change.ts'
import type { InstanceConfig } from '../../config/config.ts'
import { everything } from '../../filter.ts'
import { connectOptions } from '../../upstream/connect.ts'
import type { ConnectOptions } from '../../mysql/connection.ts'
import { commandLogger, openSource } from '../common.ts'
import type { OwnSource } from '../common.ts'
import { compareValues, VECTOR } from './compare.ts'
import type { Finding } from './probes.ts'
import { isRows } from '../../shown.ts'

const STRETCH_BYTES = 16 * 1024 * 1024
const SILENT_MS = 15_000 // zongji never says that it is at the end of the log
const SHOWN_MAX = 20
const PARTIAL_UPDATE = 39
const CHECK = 'second opinion'

/** Never throws for what it finds; what it cannot do is a finding too. */
export async function secondOpinion(
  config: InstanceConfig,
  events: number | undefined,
): Promise<Finding[]> {
  try {
    // zongji writes TIMESTAMP in UTC when asked to; so do we here.
    using source = await openSource({ ...config, timezone: 'UTC' }, commandLogger())
    if (source.facts.mariadb) {
      const message = 'not asked: the other decoder, @vlasky/zongji, is made for MySQL'
      return [{ check: CHECK, level: 'warn', message }]
    }
    const stretch = await readStretch(source, events)
    try {
      if (stretch.events.length === 0) {
        const message = `no row changes in the last ${STRETCH_BYTES / 1024 ** 2} MiB of binlog that the filter lets through`
        return [{ check: CHECK, level: 'warn', message, fix: 'change a row, then check again' }]
      }
      return await compare(stretch, connectOptions(config.source))
    } finally {
      for (const tx of stretch.transactions) tx.slab?.release()
    }
  } catch (error) {
    return [
      { check: CHECK, level: 'fail', message: `could not be had: ${(error as Error).message}` },
    ]
  }
}

/** What Sluice read: the events with what is needed to find them in zongji's stream. */
interface Stretch {
  readonly from: Pick<Position, 'file' | 'offset'>
  readonly end: Pick<Position, 'file' | 'offset'>
  readonly events: readonly {
    readonly key: string
    readonly change: RowsChange
    readonly alone: boolean
  }[]
  readonly transactions: readonly Transaction[] // hold the bytes; the caller releases them
}
/** An event's file and end: what both sides know. Events of a compressed transaction share one. */
const keyOf = (file: string, end: number): string => `${file}:${end}`

async function readStretch(source: OwnSource, eventsMax = Infinity): Promise<Stretch> {
  const { latest } = source.facts
  const start = await startNear(source, latest)
  const stop = new AbortController()
  const transactions: Transaction[] = []
  const whole: Position = { ...latest, file: start.file, offset: 4, gtids: undefined }
  if (comparePositions(whole, latest) >= 0)
    return { from: latest, end: latest, events: [], transactions }
  let counted = 0
  for await (const tx of source.read(whole, everything, stop.signal)) {
    const early = tx.file === start.file && tx.endOffset <= start.offset && tx.state !== 'open'
    const rows = early ? 0 : tx.changes.filter(isRows).length
    if (rows === 0) tx.slab?.release()
    else transactions.push(tx)
    counted += rows
    const end = { file: tx.endFile, offset: tx.endOffset, skip: 0 }
    if (tx.state !== 'open' && (counted >= eventsMax || comparePositions(end, latest) >= 0)) break
  }
  stop.abort()
  const first = transactions[0]
  const last = transactions.at(-1)
  if (!first || !last) return { from: latest, end: latest, events: [], transactions }
  const found = transactions.flatMap((tx) =>
    tx.changes.filter(isRows).map((change) => ({
      key: keyOf(tx.file, change.event.offset + change.event.length),
      change,
    })),
  )
  const uses = new Map<string, number>()
  for (const { key } of found) uses.set(key, (uses.get(key) ?? 0) + 1)
  const events = found.map((e) => ({ ...e, alone: uses.get(e.key) === 1 }))
  const end = { file: last.endFile, offset: last.endOffset }
  return { from: { file: first.file, offset: first.offset }, end, events, transactions }
}
/** The file in which the stretch begins, and about where; reading starts at the file's head, for only that is a boundary. */
async function startNear(
  source: OwnSource,
  latest: Position,
): Promise<{ file: string; offset: number }> {
  const logs = await source.lookup.query<{ Log_name: string; File_size: string | number }>(
    'SHOW BINARY LOGS',
  )
  const upTo = logs.filter((l) => fileNumber(l.Log_name) <= fileNumber(latest.file)).reverse()
  let missing = STRETCH_BYTES
  for (const { Log_name: file, File_size: size } of upTo) {
    if (Number(size) >= missing) return { file, offset: Number(size) - missing }
    missing -= Number(size)
  }
  return { file: upTo.at(-1)?.Log_name ?? latest.file, offset: 4 }
}

class Tally {
  values = 0
  rows = 0
  readonly known = new Map<string, number>()
  readonly differences: string[] = []
  differenceCount = 0
  note(reason: string, n = 1): void {
    this.known.set(reason, (this.known.get(reason) ?? 0) + n)
  }
  difference(text: string): void {
    if (++this.differenceCount <= SHOWN_MAX) this.differences.push(text)
  }
}

async function compare(stretch: Stretch, connect: ConnectOptions): Promise<Finding[]> {
  const tally = new Tally()
  const open = new Map<string, RowsChange>()
  const excluded: Record<string, string[]> = {}
  for (const { key, change, alone } of stretch.events) {
    const { table } = change
    const { bytes, start } = change.event
    if (table.columns.some((c) => c.type === VECTOR)) {
      tally.note('events of a table with a VECTOR column, which zongji cannot read')
      ;(excluded[table.database] ??= []).push(table.name)
    } else if (bytes[start + 4] === PARTIAL_UPDATE)
      tally.note('partial JSON updates, which zongji cannot decode')
    else if (!alone || bytes.readUInt32LE(start + 9) !== change.event.length) {
      tally.note('events of compressed transactions, which zongji cannot read')
    } else open.set(key, change)
  }
  const errors = await readWithZongji(stretch, connect, excluded, (file, event) => {
    const key = keyOf(file, event.nextPosition)
    const change = open.get(key)
    if (!change) return
    open.delete(key)
    compareEvent(tally, change, event)
  })
  let gaveUp = 0
  for (const [text, n] of errors) if (/not implemented|unsupported/i.test(text)) gaveUp += n
  for (const [key, { table, kind }] of open) {
    if (gaveUp-- > 0) tally.note('events that zongji gave up on and said so')
    else
      tally.difference(`${key} ${kind} ${table.database}.${table.name}: zongji gave no such event`)
  }
  return findings(stretch, tally, [...errors.keys()])
}

function compareEvent(tally: Tally, change: RowsChange, event: RowsEventLike): void {
  const { table, kind } = change
  const ours = [...change.rows()]
  const at = `${keyOf('', change.event.offset).slice(1)} ${kind} ${table.database}.${table.name}`
  if (ours.length !== event.rows.length) {
    tally.difference(`${at}: ${ours.length} rows, zongji ${event.rows.length}`)
    return
  }
  for (const [i, row] of ours.entries()) {
    tally.rows++
    const theirs = event.rows[i]!
    const images: [Row['before'], unknown][] =
      kind === 'update'
        ? [
            [row.before, theirs['before']],
            [row.after, theirs['after']],
          ]
        : [[kind === 'insert' ? row.after : row.before, theirs]]
    for (const [mine, other] of images) {
      for (const column of table.columns) {
        const value = mine?.[column.index]
        const their = (other as Record<string, unknown>)[column.name]
        const verdict = compareValues(column, value, their)
        tally.values++
        if (verdict.kind === 'known') tally.note(verdict.reason)
        else if (verdict.kind === 'different') {
          tally.difference(
            `${at}, row ${i}, ${column.name} ${column.mysqlType}: ${show(value)}, zongji ${show(their)}`,
          )
        }
      }
    }
  }
}
function show(value: unknown): string {
  if (value instanceof Uint8Array) return `0x${Buffer.from(value).toString('hex').slice(0, 80)}`
  if (typeof value === 'bigint') return value.toString()
  return String(JSON.stringify(value)).slice(0, 80)
}

function findings(stretch: Stretch, tally: Tally, errors: readonly string[]): Finding[] {
  const range = `${formatPosition({ ...stretch.from, skip: 0 })} to ${formatPosition({ ...stretch.end, skip: 0 })}`
  const size = `${tally.values} values in ${tally.rows} rows, ${range}`
  const list: Finding[] = []
  if (tally.differenceCount === 0) {
    list.push({ check: CHECK, level: 'ok', message: `Sluice and zongji agree on ${size}` })
  } else {
    const more = tally.differenceCount > SHOWN_MAX ? ` (the first ${SHOWN_MAX})` : ''
    const lines = tally.differences.map((d) => `\n         ${d}`).join('')
    list.push({
      check: CHECK,
      level: 'fail',
      message: `${tally.differenceCount} differences in ${size}${more}:${lines}`,
    })
  }
  for (const [reason, n] of tally.known)
    list.push({ check: CHECK, level: 'ok', message: `known, ${n} times: ${reason}` })
  for (const text of errors) list.push({ check: CHECK, level: 'warn', message: `zongji: ${text}` })
  return list
}

// ── the other decoder ────────────────────────────────────────────────────────

interface RowsEventLike {
  readonly nextPosition: number
  readonly rows: readonly Record<string, unknown>[]
}
/** Reads the stretch with zongji; returns what it complained about, and how often. */
async function readWithZongji(
  { from, end }: Stretch,
  connect: ConnectOptions,
  excludeSchema: Record<string, string[]>,
  each: (file: string, event: RowsEventLike) => void,
): Promise<Map<string, number>> {
  const { default: ZongJi } = await import('@vlasky/zongji')
  const { host, port, user, password, tls, connectTimeoutMs } = connect
  const verify = tls.mode.startsWith('verify')
  const { ca, cert, key } = tls
  const ssl = tls.mode === 'disabled' ? {} : { ssl: { rejectUnauthorized: verify, ca, cert, key } }
  const options = {
    host,
    port,
    user,
    password,
    connectTimeout: connectTimeoutMs,
    dateStrings: true,
    timezone: 'Z',
    jsonStrings: true,
    ...ssl,
  }
  const zongji = new ZongJi(options as ConstructorParameters<typeof ZongJi>[0])
  const errors = new Map<string, number>()
  const { promise: done, resolve } = Promise.withResolvers<void>()
  let timer = setTimeout(resolve, SILENT_MS)
  zongji.on('error', (error: Error) => {
    errors.set(error.message, (errors.get(error.message) ?? 0) + 1)
    if (
      /ECONN|ER_|closed/i.test(`${error.message} ${String((error as NodeJS.ErrnoException).code)}`)
    )
      resolve()
  })
  zongji.on('binlog', (event) => {
    clearTimeout(timer)
    timer = setTimeout(resolve, SILENT_MS)
    const file = zongji.options.filename ?? from.file
    if ('rows' in event) each(file, event as unknown as RowsEventLike)
    if (event.getEventName() === 'rotate') return
    const at = { file, offset: event.nextPosition, skip: 0 }
    if (comparePositions(at, { ...end, skip: 0 }) >= 0) resolve()
  })
  try {
    zongji.start({
      filename: from.file,
      position: from.offset,
      serverId: 0x3000_0000 + Math.floor(Math.random() * 0x0fff_ffff),
      includeEvents: [
        'rotate',
        'tablemap',
        'writerows',
        'updaterows',
        'deleterows',
        'xid',
        'query',
        'gtid',
        'anonymousgtid',
        'transactionpayload',
      ],
      excludeSchema,
    })
    await done
  } finally {
    clearTimeout(timer)
    zongji.stop()
  }
  return errors
}
