/**
 * Who reads what the writers of load.ts wrote, through a real Sluice process: a follower checks every change as it comes
 * (exactly once and in order, but for what was not confirmed before a break, which must say that it comes again), and a
 * scenario keeps server, writers and followers of one test together. Every failure says seed, places and the log's end.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { connect } from '../../src/client.ts'
import type { Batch, ConnectOptions, RowsChange, SluiceClient } from '../../src/client.ts'
import { uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { freePort, startSluice, type SluiceProcess } from '../support/sluice.ts'
import { createTables, memoryOf, Random, tableNames, until, Writer, type Pace } from './load.ts'

/** What one change of a writer is to its reader. */
interface Item {
  readonly writer: number
  readonly number: number
  readonly redelivered: boolean
}
/** How far a reader is with one writer's changes. */
interface Progress {
  next: number // the number that was never seen yet
  run: number // the number that comes after the last one
  confirmed: number // acked, and a reply since then has proved it
}

export interface FollowOptions extends Partial<ConnectOptions> {
  readonly seed: number
  /** Of its writers. */
  readonly database: string
  /** Batches kept before the oldest is acked, at most; default 3. */
  readonly lag?: number
  readonly size?: number
  readonly pipeline?: number
}

export class Follower {
  /** What ended it early. */
  error: Error | undefined
  batches = 0
  received = 0
  duplicates = 0
  breaks = 0
  readonly #writers: readonly Writer[]
  readonly #progress = new Map<number, Progress>()
  readonly #rows = new Map<string, number>() // "writer table:id" → number
  readonly #random: Random
  readonly #options: FollowOptions
  readonly #stop = new AbortController()
  #client: SluiceClient | undefined
  #running: Promise<void> | undefined
  #held: Batch[] = []
  /** Acked since the last break, not confirmed: after which batch, and what it covered. */
  #unconfirmed: { readonly batch: number; readonly ends: Map<number, number> }[] = []
  #ends = new Map<Batch, Map<number, number>>()
  #last = 'none'

  constructor(writers: readonly Writer[], options: FollowOptions) {
    this.#writers = writers
    this.#options = options
    this.#random = new Random(options.seed)
    for (const { id } of writers) this.#progress.set(id, { next: 0, run: 0, confirmed: 0 })
  }

  /** Reads and acks until `stop`. */
  async start(options: ConnectOptions): Promise<void> {
    this.#client = await connect({ retry: { delayMs: 10, delayMaxMs: 200 }, ...options })
    this.#running = this.#run(this.#client).catch((error: unknown) => {
      this.error = error as Error
    })
  }
  /** Whether every change of every writer, none of which writes any more, has come. */
  get done(): boolean {
    return this.#writers.every(({ id, count }) => this.#progress.get(id)!.next === count)
  }
  get total(): number {
    return this.received + this.duplicates
  }
  where(): string {
    const places = this.#writers.map(({ id, count }) => {
      const { next, run, confirmed } = this.#progress.get(id)!
      return `writer ${id}: ${count} written, next ${next}, run ${run}, confirmed ${confirmed}`
    })
    return `last batch ${this.#last}; ${places.join('; ')}; ${this.breaks} breaks, ${this.duplicates} duplicates`
  }
  /** Acks what it holds, and leaves. */
  async stop(): Promise<void> {
    this.#stop.abort()
    await this.#running
    for (const batch of this.#held.splice(0)) await batch.ack()
    await this.#client?.close()
  }
  /** Compares what it saw with the tables. */
  async compare(mysql: MysqlServer): Promise<void> {
    const { database } = this.#options
    let count = 0
    for (const table of tableNames) {
      const rows = await mysql.query<{ writer: number; id: number; seq: number }>(
        `SELECT writer, id, seq FROM ${database}.${table}`,
      )
      count += rows.length
      for (const { writer, id, seq } of rows) {
        const mine = this.#rows.get(`${writer} ${table}:${id}`)
        if (mine !== seq) throw new Error(`row ${writer} ${table}:${id}: has ${seq}, saw ${mine}`)
      }
    }
    if (count !== this.#rows.size)
      throw new Error(`expected ${count} rows in the end, saw ${this.#rows.size}`)
  }

  async #run(client: SluiceClient): Promise<void> {
    const { lag = 3, pipeline = 4, size = 1000 } = this.#options
    const signal = this.#stop.signal
    for await (const batch of client.batches({ signal, pipeline, size, waitMs: 200 })) {
      this.#take(batch, pipeline)
      this.#held.push(batch)
      const keep = this.#random.int(0, lag)
      while (this.#held.length > keep) await this.#ack(this.#held.shift()!)
    }
  }
  async #ack(batch: Batch): Promise<void> {
    await batch.ack()
    // a batch of before the break is stale: its ack says nothing
    const ends = this.#ends.get(batch)
    if (ends) this.#unconfirmed.push({ batch: this.batches, ends })
    this.#ends.delete(batch)
  }

  #take(batch: Batch, pipeline: number): void {
    const rows = batch.changes.filter(
      (change): change is RowsChange => change.kind === 'rows' && tableNames.includes(change.table),
    )
    const items = rows.flatMap((change) => this.#itemsOf(change))
    this.batches++
    const [from, to] = [batch.first, batch.last]
    this.#last = `${batch.id} from ${from.file}:${from.offset} to ${to.file}:${to.offset}`
    const first = items[0]
    if (first) {
      const { run } = this.#progress.get(first.writer)!
      if (first.number < run || (run < 0 && first.redelivered)) this.#break()
    }
    // The get that brought this batch was sent when the one `pipeline` before it had been taken.
    while (this.#unconfirmed[0] && this.#unconfirmed[0].batch <= this.batches - pipeline)
      for (const [id, end] of this.#unconfirmed.shift()!.ends)
        this.#progress.get(id)!.confirmed = end
    for (const item of items) this.#check(item)
    const ends = [...this.#progress].flatMap(([id, { run }]) =>
      run < 0 ? [] : [[id, run] as const],
    )
    this.#ends.set(batch, new Map(ends))
    for (const change of rows) this.#apply(change)
  }
  /** The server began again at what it knows to be acked. */
  #break(): void {
    this.breaks++
    this.#unconfirmed = []
    this.#ends.clear()
    for (const progress of this.#progress.values()) progress.run = -1
  }
  #check({ writer, number, redelivered }: Item): void {
    const progress = this.#progress.get(writer)!
    const { next, run, confirmed } = progress
    const fail = (expected: string): Error =>
      new Error(
        `change ${number} of writer ${writer}${redelivered ? ' (redelivered)' : ''}: expected ${expected}`,
      )
    if (run >= 0 && number !== run) throw fail(`number ${run}`)
    if (number > next) throw fail(`at most ${next}: some are lost`)
    if (number < confirmed) throw fail(`none that was confirmed, up to ${confirmed}`)
    if (redelivered !== number < next)
      throw fail(redelivered ? 'a new one not to be marked' : 'a duplicate to be marked')
    progress.run = number + 1
    if (number < next) this.duplicates++
    else {
      progress.next++
      this.received++
    }
  }

  #itemsOf(change: RowsChange): Item[] {
    return change.rows.map(({ before, after }) => {
      const image = after ?? before!
      const writer = Number(image['writer'])
      const seq = Number(image['seq'])
      const pad = image['pad']
      if (!Buffer.isBuffer(pad) || crc32(pad) !== image['crc'])
        throw new Error(`change ${seq} of writer ${writer}: its bytes do not match their checksum`)
      if (after) return { writer, number: seq, redelivered: change.redelivered }
      const number = this.#writers.find(({ id }) => id === writer)?.deletes.get(seq)
      if (number === undefined) throw new Error(`nobody deleted row ${seq} of writer ${writer}`)
      return { writer, number, redelivered: change.redelivered }
    })
  }
  /** What the images say must fit to what came before them; a duplicate was applied already. */
  #apply(change: RowsChange): void {
    if (change.redelivered) return
    for (const { before, after } of change.rows) {
      const image = after ?? before!
      const key = `${Number(image['writer'])} ${change.table}:${Number(image['id'])}`
      if (this.#rows.get(key) !== before?.['seq'])
        throw new Error(
          `row ${key}: was ${this.#rows.get(key)}, its change says ${Number(before?.['seq'])}`,
        )
      if (after) this.#rows.set(key, Number(after['seq']))
      else this.#rows.delete(key)
    }
  }
}

export interface ScenarioOptions {
  readonly mysql: MysqlServer
  readonly seed: number
  readonly writers?: number
  readonly pace?: Pace
  /** Where Sluice finds MySQL, when not at its own port. */
  readonly mysqlPort?: number
  /** More keys of the instance file, and of its `source`. */
  readonly instance?: object
  readonly source?: object
  /** Also a destination "other", with a database and a writer of its own, straight from MySQL. */
  readonly other?: boolean
}

/** One Sluice with destination "load", writers into its database, and followers; started, not yet writing. */
export class Scenario implements AsyncDisposable {
  readonly database = uniqueDatabase('load')
  readonly otherDatabase = uniqueDatabase('other')
  readonly dir = mkdtempSync(join(tmpdir(), 'sluice-e2e-'))
  readonly writers: Writer[] = []
  readonly followers: Follower[] = []
  readonly random: Random
  /** Of every process until now. */
  readonly log: string[] = []
  readonly peaks: number[] = []
  sluice!: SluiceProcess
  readonly #options: ScenarioOptions
  #port = 0

  private constructor(options: ScenarioOptions) {
    this.#options = options
    this.random = new Random(options.seed)
  }
  static async start(options: ScenarioOptions): Promise<Scenario> {
    const scenario = new Scenario(options)
    const { mysql, pace = {}, writers = 2 } = options
    const { database, otherDatabase } = scenario
    await createTables(mysql, database)
    for (let id = 0; id < writers; id++)
      scenario.writers.push(new Writer(mysql, database, id, options.seed + id, pace))
    if (options.other) {
      await createTables(mysql, otherDatabase)
      scenario.writers.push(
        new Writer(mysql, otherDatabase, 99, options.seed + 99, { pauseMs: 20 }),
      )
    }
    scenario.#port = await freePort()
    await scenario.startSluice()
    return scenario
  }

  get port(): number {
    return this.#port
  }
  get pid(): number {
    return this.sluice.process.pid!
  }
  #instance(database: string, more: { mysqlPort?: number; source?: object } = {}): object {
    const { mysql, instance } = this.#options
    const { host, user, password } = mysql
    return {
      source: { host, port: more.mysqlPort ?? mysql.port, user, password, ...more.source },
      filter: { include: `${database}\\..*` },
      retry: { minMs: '20ms', maxMs: '200ms' },
      ...instance,
    }
  }
  async startSluice(): Promise<void> {
    const instances: Record<string, object> = { load: this.#instance(this.database, this.#options) }
    if (this.#options.other) instances['other'] = this.#instance(this.otherDatabase)
    this.sluice = await startSluice({ dir: this.dir, instances, port: this.#port })
  }
  /** SIGKILL; the state stays. */
  async kill(): Promise<void> {
    this.peaks.push(memoryOf(this.pid).peak)
    await this.sluice.kill()
    this.log.push(...this.sluice.log)
  }
  async restart(): Promise<void> {
    await this.kill()
    await this.startSluice()
  }
  /** A follower of "load" or "other"; `port` for one that comes through a proxy. */
  async follow(options: Partial<FollowOptions> & { port?: number } = {}): Promise<Follower> {
    const { port = this.#port, seed = this.random.int(0, 2 ** 30), ...more } = options
    const { destination = 'load' } = more
    const database = destination === 'load' ? this.database : this.otherDatabase
    const writers = this.writers.filter((writer) => writer.database === database)
    const follower = new Follower(writers, { seed, database, ...more })
    this.followers.push(follower)
    await follower.start({ destination, port, ...more })
    return follower
  }
  write(): void {
    for (const writer of this.writers) writer.start()
  }

  /** Runs `body`, then waits until the followers have everything. Whatever fails is told with all there is to know. */
  async run(body: () => Promise<void>): Promise<void> {
    try {
      await body()
      await this.finish()
    } catch (error) {
      const file = join(tmpdir(), `sluice-e2e-${process.pid}-${Date.now()}.log`)
      writeFileSync(file, [...this.log, ...this.sluice.log].join('\n'))
      throw new Error(`${(error as Error).message}\n${this.situation()}\nwhole log: ${file}`, {
        cause: error,
      })
    }
  }
  situation(): string {
    const lines = [...this.log, ...this.sluice.log]
    return [
      `SLUICE_SEED=${this.#options.seed}`,
      ...this.followers.map((follower) => follower.where()),
      `the log's end:`,
      ...lines.slice(-12).map((line) => line.slice(0, 600)),
    ].join('\n')
  }
  async stopWriting(): Promise<void> {
    for (const writer of this.writers) await writer.stop()
  }
  /** Waits for a condition while followers and the process are watched. */
  async wait(done: () => boolean, what: string, limitMs?: number): Promise<void> {
    const check = (): boolean => {
      for (const { error } of this.followers) if (error) throw error
      const { process } = this.sluice
      if (process.exitCode !== null || process.signalCode !== null)
        throw new Error(`Sluice ended (${process.exitCode ?? process.signalCode})`)
      const failed = this.sluice.log.slice(-20).find((line) => line.includes('"state":"failed"'))
      if (failed) throw new Error(`the instance failed: ${failed}`)
      return done()
    }
    await until(check, () => what, {
      progress: () => this.followers.reduce((sum, { total }) => sum + total, 0),
      ...(limitMs !== undefined && { limitMs }),
    })
  }
  /** Lets load pass for a random while, and followers be checked. */
  async pass(leastMs: number, mostMs: number): Promise<void> {
    await sleep(this.random.int(leastMs, mostMs))
    for (const { error } of this.followers) if (error) throw error
  }

  async finish(): Promise<void> {
    await this.stopWriting()
    await this.wait(() => this.followers.every(({ done }) => done), 'for the last changes')
    for (const follower of this.followers) {
      await follower.stop()
      await follower.compare(this.#options.mysql)
    }
    const bad = [...this.log, ...this.sluice.log].filter(
      (line) => !/"level":"(info|warn)"/.test(line),
    )
    if (bad.some((line) => line !== '')) throw new Error(`the log has errors:\n${bad.join('\n')}`)
    this.peaks.push(memoryOf(this.pid).peak)
  }
  get changes(): number {
    return this.writers.reduce((sum, { count }) => sum + count, 0)
  }
  /** For the record. */
  summary(): string {
    const of = (key: 'duplicates' | 'breaks' | 'batches'): number =>
      this.followers.reduce((sum, follower) => sum + follower[key], 0)
    const transactions = this.writers.reduce((sum, writer) => sum + writer.transactions, 0)
    return (
      `${this.changes} changes in ${transactions} transactions, ${of('batches')} batches, ${of('breaks')} breaks, ` +
      `${of('duplicates')} duplicates, peak ${Math.max(...this.peaks)} MB`
    )
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.followers.map((follower) => follower.stop()))
    await Promise.allSettled(this.writers.map((writer) => writer.stop()))
    await this.sluice.kill()
    for (const database of [this.database, this.otherDatabase])
      await this.#options.mysql.query(`DROP DATABASE IF EXISTS ${database}`).catch(() => undefined)
    rmSync(this.dir, { recursive: true, force: true })
  }
}
