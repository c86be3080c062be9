/**
 * Writes batches with a version in every row: an older one never wins, so that writers may work at once and a replay does
 * no harm. A delete leaves a tombstone, kept longer than any replay; tables are locked for it, so that no upsert passes
 * by a tombstone that is being written.
 */
import { createHash } from 'node:crypto'
import { SluiceError } from '../../errors.ts'
import type { SinkBatch } from '../shape/batch.ts'
import { ConstraintError, type Session } from './dialects/dialect.ts'
import { deadKey, merged, ordered, survey, targetsOf, type Last, type Survey } from './plan.ts'
import type { BoundTable, Tables } from './tables.ts'
import { Line, planOptions, runAll, type WriterOptions } from './writer.ts'

export interface FencedOptions extends Omit<WriterOptions, 'tables'> {
  /** Each writer has its own. */
  readonly makeTables: () => Tables
  readonly tombstones: string
  readonly locks: string
  readonly writers: number
  readonly tombstoneHours: number
}

interface Writer {
  readonly line: Line
  readonly tables: Tables
}

const hashOf = (key: string): string => createHash('sha256').update(key, 'latin1').digest('hex')

export class Fenced {
  readonly #options: FencedOptions
  readonly #writers: readonly Writer[]
  readonly #free: Writer[]
  readonly #waiting: ((writer: Writer) => void)[] = []
  readonly #locked = new Set<string>()
  #writes = 0
  constructor(options: FencedOptions) {
    this.#options = options
    this.#writers = Array.from({ length: options.writers }, () => ({
      line: new Line(options.dialect, () => Promise.resolve()),
      tables: options.makeTables(),
    }))
    this.#free = [...this.#writers]
  }
  async open(): Promise<void> {
    await this.#writers[0]!.line.session()
  }
  async write(batch: SinkBatch, signal: AbortSignal): Promise<void> {
    const writer = this.#free.pop() ?? (await new Promise<Writer>((r) => this.#waiting.push(r)))
    try {
      await writer.line.use(signal, (session) => this.#write(session, writer.tables, batch))
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#free.push(writer)
      else next(writer)
    }
  }
  async #write(session: Session, tables: Tables, batch: SinkBatch): Promise<void> {
    await tables.bind(session, targetsOf(batch))
    const plan = planOptions({ ...this.#options, tables })
    const found = survey(batch, plan, true)
    if (found.rows === 0) return
    await this.#lockRows(session, found)
    const attempt = async (inOrder: boolean): Promise<void> => {
      await session.run('BEGIN')
      await this.#lock(session, found)
      const dead = await this.#dead(session, batch, found)
      await runAll(
        session,
        inOrder ? ordered(batch, { ...plan, dead }) : merged(batch, found, plan),
      )
      await this.#bury(session, found)
      await this.#refuseAhead(session, tables, batch, found)
      await session.run('COMMIT')
    }
    try {
      await attempt(found.ordered)
    } catch (error) {
      if (!(error instanceof ConstraintError) || found.ordered || found.rows < 2) throw error
      await session.run('ROLLBACK')
      tables.reset()
      await attempt(true)
    }
    if (++this.#writes % 1000 === 1) await this.#expire(session)
  }

  /** A row per table that deletes hold alone and upserts share: a tombstone is seen by every later upsert. */
  #lockName(table: BoundTable): string {
    return this.#options.dialect.text(`lock:${table.id}`)
  }
  async #lockRows(session: Session, { last }: Survey): Promise<void> {
    const { dialect, locks } = this.#options
    const mysql = dialect.name === 'mysql'
    for (const table of new Set(last.map((one) => one.table)))
      if (!this.#locked.has(table.id)) {
        await session.run(
          `${mysql ? 'INSERT IGNORE' : 'INSERT'} INTO ${locks} (name, owner) VALUES (${this.#lockName(table)}, '')${mysql ? '' : ' ON CONFLICT DO NOTHING'}`,
        )
        this.#locked.add(table.id)
      }
  }
  async #lock(session: Session, { last }: Survey): Promise<void> {
    const { dialect, locks } = this.#options
    const exclusive = new Map<string, boolean>()
    for (const { table, deleted } of last) {
      const name = this.#lockName(table)
      exclusive.set(name, deleted || exclusive.get(name) === true)
    }
    const share = dialect.name === 'mysql' ? 'LOCK IN SHARE MODE' : 'FOR SHARE'
    for (const [name, alone] of [...exclusive].toSorted(([a], [b]) => (a < b ? -1 : 1)))
      await session.run(`SELECT 1 FROM ${locks} WHERE name=${name} ${alone ? 'FOR UPDATE' : share}`)
  }
  #hex(hash: string): string {
    return this.#options.dialect.name === 'mysql' ? `X'${hash}'` : `'\\x${hash}'`
  }
  /** Rows that were deleted later than they are written now. */
  async #dead(
    session: Session,
    batch: SinkBatch,
    { last, todo }: Survey,
  ): Promise<Map<string, string>> {
    const found = new Map<string, string>()
    const { dialect, tombstones } = this.#options
    const hex = dialect.name === 'mysql' ? 'LOWER(HEX(row_key))' : "encode(row_key, 'hex')"
    for (const [table, rows] of byTable(last)) {
      for (const some of chunks(rows, 1000)) {
        const keys = new Map(some.map((one) => [hashOf(one.key), one]))
        const list = [...keys.keys()].map((hash) => this.#hex(hash)).join(',')
        const dead = await session.run(
          `SELECT ${hex} AS row_key, version FROM ${tombstones} WHERE table_name=${dialect.text(table.id)} AND row_key IN (${list})`,
        )
        for (const { row_key: key, version } of dead.rows) {
          const one = keys.get(String(key))!
          if (String(version) > batch.highest) throw this.#ahead(table, String(version), batch)
          if (String(version) > one.version) todo[one.seq] = 0
          found.set(deadKey(table, one.key), String(version))
        }
      }
    }
    return found
  }
  async #bury(session: Session, { last }: Survey): Promise<void> {
    const { dialect, tombstones } = this.#options
    const tail =
      dialect.name === 'mysql'
        ? 'ON DUPLICATE KEY UPDATE version=GREATEST(version,VALUES(version)), deleted_at=CURRENT_TIMESTAMP'
        : `ON CONFLICT (table_name, row_key) DO UPDATE SET version=GREATEST(t.version,EXCLUDED.version), deleted_at=now()`
    const alias = dialect.name === 'mysql' ? '' : ' AS t'
    for (const [table, rows] of byTable(last.filter((one) => one.deleted))) {
      for (const some of chunks(rows, 1000)) {
        const name = dialect.text(table.id)
        const values = some.map(
          ({ key, version }) => `(${name},${this.#hex(hashOf(key))},'${version}')`,
        )
        await session.run(
          `INSERT INTO ${tombstones}${alias} (table_name, row_key, version) VALUES ${values.join(',')} ${tail}`,
        )
      }
    }
  }
  /** A fence that refused a row is right only if this cursor has issued what stands there. */
  async #refuseAhead(
    session: Session,
    tables: Tables,
    batch: SinkBatch,
    { last }: Survey,
  ): Promise<void> {
    const wanted = new Set(last.map(({ seq }) => seq))
    let seq = -1
    const pending = new Set<BoundTable>()
    const ask = async (table: BoundTable): Promise<void> => {
      const { sql, values } = table.collector('ahead').take()
      const fence = this.#options.dialect.quote(table.fence!)
      const column = this.#options.dialect.name === 'mysql' ? fence : `t.${fence}`
      const above = ` AND ${column}>'${batch.highest}' LIMIT 1`
      const { rows } = await session.run({ sql: sql + above, values })
      if (rows.length > 0) throw this.#ahead(table, String(rows[0]!['version']), batch)
    }
    for (const row of batch.rows(true)) {
      if (!wanted.has(++seq)) continue
      const table = tables.get(row.table)!
      const collector = table.collector('ahead')
      collector.add(row)
      pending.add(table)
      if (collector.rows >= 1000) await ask(table)
    }
    for (const table of pending) if (table.collector('ahead').rows > 0) await ask(table)
  }
  #ahead(table: BoundTable, version: string, batch: SinkBatch): SluiceError {
    return new SluiceError(
      'TARGET_AHEAD',
      `${this.#options.dialect.where}: ${table.id} holds version ${version}, above the highest this sink has issued, ${batch.highest}; expected a target that only this instance writes`,
    )
  }
  /** Tombstones that no replay will ask for. */
  async #expire(session: Session): Promise<void> {
    const { dialect, tombstones, tombstoneHours } = this.#options
    const span =
      dialect.name === 'mysql'
        ? `INTERVAL ${tombstoneHours} HOUR`
        : `INTERVAL '${tombstoneHours} hours'`
    await session.run(`DELETE FROM ${tombstones} WHERE deleted_at < CURRENT_TIMESTAMP - ${span}`)
  }
  async close(): Promise<void> {
    for (const { line } of this.#writers) await line.close()
  }
}
function byTable(last: readonly Last[]): Map<BoundTable, Last[]> {
  const tables = new Map<BoundTable, Last[]>()
  for (const one of last) {
    const rows = tables.get(one.table)
    if (rows === undefined) tables.set(one.table, [one])
    else rows.push(one)
  }
  return tables
}
function* chunks<T>(list: readonly T[], size: number): Generator<T[], void, undefined> {
  for (let i = 0; i < list.length; i += size) yield list.slice(i, i + size)
}
