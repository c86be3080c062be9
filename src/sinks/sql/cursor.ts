/**
 * The sink's place, kept in the target beside the rows: one row of the cursors' table, moved in the same transaction as
 * the rows it stands for. Whoever opens it last owns it; an older writer's next transaction finds another owner and ends.
 */
import { randomBytes } from 'node:crypto'
import type { Position } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { positionFromJson, positionToJson } from '../../store/state.ts'
import type { SinkContext } from '../sink.ts'
import type { Dialect, Session } from './dialects/dialect.ts'

/** Under which names this process has had, or may have had, each cursor. */
const ours = new Map<string, Set<string>>()

export class TargetCursor {
  readonly #dialect: Dialect
  readonly #context: SinkContext
  readonly #table: string
  readonly #name: string
  #owner = ''
  position: Position | undefined
  /** The statement that was begun and not known to have ended. */
  pending: string | undefined

  constructor(dialect: Dialect, context: SinkContext, table: string) {
    this.#dialect = dialect
    this.#context = context
    this.#table = table
    this.#name = `${context.instance}/${context.sink}`
  }

  /** Takes the cursor over on a new connection. Throws STATE_FENCED when a younger writer has it. */
  async claim(session: Session): Promise<void> {
    const { text } = this.#dialect
    const { fence, instance } = this.#context
    const owner = randomBytes(16).toString('hex')
    const into = this.#dialect.name === 'mysql' ? 'INSERT IGNORE INTO' : 'INSERT INTO'
    const unless = this.#dialect.name === 'mysql' ? '' : ' ON CONFLICT DO NOTHING'
    await session.run(
      `${into} ${this.#table} (name, owner) VALUES (${text(this.#name)}, '')${unless}`,
    )
    await session.run('BEGIN')
    const { rows } = await session.run(
      `SELECT position, pending, fence, owner FROM ${this.#table} WHERE name=${text(this.#name)} FOR UPDATE`,
    )
    const stored = rows[0]!
    if (Number(stored['fence']) > fence)
      throw this.#fenced(
        `a younger start of instance ${instance} (fence ${String(stored['fence'])}, ours is ${fence}); if its state was given up on purpose: UPDATE ${this.#table} SET fence=0 WHERE name=${text(this.#name)}`,
      )
    // A copy of the state has the same fence: who had the cursor and lost it does not take it back.
    const known = `${this.#dialect.where} ${this.#table} ${this.#name} ${fence}`
    const mine = ours.get(known)
    const previous = String(stored['owner'])
    if (mine !== undefined && previous !== '' && !mine.has(previous))
      throw this.#fenced('another process, which took it over')
    ours.set(known, new Set([owner, previous]))
    await session.run(
      `UPDATE ${this.#table} SET owner='${owner}', fence=${fence} WHERE name=${text(this.#name)}`,
    )
    await session.run('COMMIT')
    this.#owner = owner
    this.pending = typeof stored['pending'] === 'string' ? stored['pending'] : undefined
    if (typeof stored['position'] === 'string')
      this.position = positionFromJson(
        stored['position'],
        `${this.#dialect.where}, ${this.#table}, ${this.#name}`,
      )
  }
  #fenced(by: string): SluiceError {
    return new SluiceError(
      'STATE_FENCED',
      `${this.#dialect.where}: the cursor ${this.#name} in ${this.#table} belongs to ${by}; this one writes no more`,
    )
  }

  /** Begins a transaction that leaves the cursor at `position`. Throws STATE_FENCED. */
  async begin(session: Session, position: Position): Promise<void> {
    const { text } = this.#dialect
    const gtids = position.gtids === undefined ? 'NULL' : text(position.gtids.toString())
    const { count } = await session.run(
      `BEGIN; UPDATE ${this.#table} SET position=${text(positionToJson(position))},
         server=${text(position.server)}, epoch=${position.epoch}, gtids=${gtids}, pending=NULL, updated_at=CURRENT_TIMESTAMP
       WHERE name=${text(this.#name)} AND owner='${this.#owner}'`,
    )
    if (count !== 1) throw this.#fenced('another process')
  }
  /** Notes a statement that is about to be run, where it cannot be part of a transaction. */
  async announce(session: Session, version: string): Promise<void> {
    const { count } = await session.run(
      `UPDATE ${this.#table} SET pending='${version}' WHERE name=${this.#dialect.text(this.#name)} AND owner='${this.#owner}'`,
    )
    if (count !== 1) throw this.#fenced('another process')
  }
}
