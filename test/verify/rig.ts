/**
 * A source, a sink written once from its log, and the verification of it: for tests of what is equal and what is not.
 */
import { compileFilter } from '../../src/filter.ts'
import { sinkTypes } from '../../src/sinks/index.ts'
import { ownOptions, sinkSchema, type SinkConfig } from '../../src/sinks/runner/options.ts'
import { compileMapping } from '../../src/sinks/shape/mapping.ts'
import type { Sink } from '../../src/sinks/sink.ts'
import { verify, type VerifyOptions, type VerifyReport } from '../../src/verify/verify.ts'
import { contextOf, drive, Log } from '../sinks/sql/log.ts'
import type { MysqlServer } from '../support/mysql.ts'

export const configOf = (options: object): SinkConfig => sinkSchema(sinkTypes).parse(options)

/** Writes what is logged in a database from here on, as the runner would. */
export class Pair {
  readonly config: SinkConfig
  readonly #mysql: MysqlServer
  readonly #database: string
  readonly #log: Log
  #sink: Sink | undefined
  private constructor(mysql: MysqlServer, database: string, config: SinkConfig, log: Log) {
    this.#mysql = mysql
    this.#database = database
    this.config = config
    this.#log = log
  }
  static async start(mysql: MysqlServer, database: string, options: object): Promise<Pair> {
    const config = configOf(options)
    const mapping = compileMapping(config.tables, 'sinks.test')
    const log = await Log.start(mysql, database, { mapping })
    return new Pair(mysql, database, config, log)
  }
  /** Everything logged since the last time is in the target when it resolves. */
  async write(): Promise<void> {
    const type = sinkTypes.find((t) => t.type === this.config.type)!
    this.#sink ??= await type.open(
      ownOptions(type, this.config),
      contextOf(this.#log.position, this.#database),
    )
    await drive(this.#sink, await this.#log.read())
  }
  async close(): Promise<void> {
    await this.#sink?.close()
  }
  /** At once: nothing is in motion, unless `more` says otherwise. */
  async verify(more: Partial<VerifyOptions> = {}): Promise<VerifyReport> {
    const { host, port, user, password } = this.#mysql
    return await verify({
      source: {
        connect: {
          host,
          port,
          user,
          password,
          connectTimeoutMs: 10_000,
          tls: { mode: 'preferred' },
        },
        filter: compileFilter({ include: `${this.#database}\\..*` }),
      } as VerifyOptions['source'],
      instance: 'shop',
      name: 'test',
      sink: this.config,
      passed: () => Promise.resolve(),
      signal: new AbortController().signal,
      ...more,
    })
  }
}
