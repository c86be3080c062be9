/** The Redis sink in the conformance suite: rows as JSON, one table as hashes, of which one key is taken by another type. */
import { Redis } from 'ioredis'
import { privateService, type Service } from '../../support/services.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import type { Address } from './scene.ts'
import { parseExact, rowFromJson, type Row, type TableSpec } from './tables.ts'

const REFUSED = 'refuse me'

class Cache implements Destination {
  readonly promise = 'fenced'
  readonly refused = REFUSED
  readonly address: Address
  readonly #server: Service
  readonly #client: Redis
  constructor(server: Service) {
    this.#server = server
    this.address = { host: server.host, port: server.port }
    this.#client = new Redis(this.address)
  }
  /** What the suite writes to row 13 of `picky` meets a key that is no hash. */
  async prepare(): Promise<void> {
    await this.#client.set('row:picky:13', 'taken')
  }
  sink({ database }: Place, { host, port }: Address): object {
    const picky = `${database}\\.picky`
    const key = 'row:{table}:{id}'
    const rules = [
      { kind: 'string', key, except: picky },
      { kind: 'hash', key, match: picky },
    ]
    return { type: 'redis', host, port, rules, timeoutMs: '2s' }
  }
  async rows(_: Place, table: TableSpec): Promise<Map<string, Row>> {
    const rows = new Map<string, Row>()
    for (const key of await this.#client.keys(`row:${table.name}:*`)) {
      const type = await this.#client.type(key)
      if (table.name === 'picky' && type !== 'hash') continue
      const hash = async (): Promise<string> => {
        const { id, ...rest } = await this.#client.hgetall(key)
        return JSON.stringify({ id: Number(id), ...rest })
      }
      const text = type === 'hash' ? await hash() : await this.#client.get(key)
      if (text !== null) rows.set(key.split(':')[2]!, rowFromJson(table, parseExact(text))!)
    }
    return rows
  }
  async fill(): Promise<AsyncDisposable> {
    await this.#client.config('SET', 'maxmemory', '1')
    return {
      [Symbol.asyncDispose]: async () => {
        await this.#client.config('SET', 'maxmemory', '0')
      },
    }
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.disconnect()
    await this.#server[Symbol.asyncDispose]()
  }
}

conformance(
  'redis',
  async () =>
    new Cache(await privateService('redis', { settings: { 'maxmemory-policy': 'noeviction' } })),
)
