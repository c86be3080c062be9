/** The Redis sink in the conformance suite: rows as strings of JSON, and one table as hashes. */
import { Redis } from 'ioredis'
import { appliedKey } from '../../../src/sinks/redis/applied.ts'
import { hasService, privateService, type Service } from '../../support/services.ts'
import { conformance, type Destination, type Place } from '../conformance.ts'
import { SINK, type Address } from './scene.ts'
import { parseExact, picky, rowFromJson, short, type Row, type TableSpec } from './tables.ts'

class Keys implements Destination {
  readonly promise = 'fenced'
  readonly refused = 'refuse me'
  readonly address: Address
  readonly #server: Service
  readonly #client: Redis

  constructor(server: Service) {
    this.#server = server
    this.address = server
    this.#client = new Redis({ host: server.host, port: server.port })
  }
  #key({ database }: Place, table: TableSpec, id: string): string {
    return `${database}:${table.name}:${id}`
  }
  async prepare(place: Place): Promise<void> {
    // a key of another type stands where the row's hash should go
    await this.#client.set(this.#key(place, picky, '13'), 'not a hash')
  }
  sink({ database }: Place, { host, port }: Address): object {
    const hashes = `${database}\\.picky`
    const rules = [
      { kind: 'hash', match: hashes },
      { kind: 'string', except: hashes },
    ]
    return { type: 'redis', host, port, timeoutMs: '2s', rules }
  }
  async rows(place: Place, table: TableSpec): Promise<Map<string, Row>> {
    const start = this.#key(place, table, '')
    const keys = await this.#client.keys(`${start}*`)
    const rows = new Map<string, Row>()
    if (table === picky) {
      for (const key of keys) {
        if ((await this.#client.type(key)) !== 'hash') continue
        const { id, v } = await this.#client.hgetall(key)
        rows.set(key.slice(start.length), { id: id!, v: short(v!) })
      }
      return rows
    }
    const values = keys.length > 0 ? await this.#client.mget(keys) : []
    for (const [i, value] of values.entries()) {
      if (value !== null)
        rows.set(keys[i]!.slice(start.length), rowFromJson(table, parseExact(value)))
    }
    return rows
  }
  async fill(): Promise<AsyncDisposable> {
    await this.#client.config('SET', 'maxmemory', '1')
    return {
      [Symbol.asyncDispose]: async () => void (await this.#client.config('SET', 'maxmemory', '0')),
    }
  }
  async forget(): Promise<void> {
    await this.#client.del(appliedKey('', 'conf', SINK))
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.disconnect()
    await this.#server[Symbol.asyncDispose]()
  }
}

if (hasService('redis')) conformance('redis', async () => new Keys(await privateService('redis')))
