/**
 * The demo's second part: a real Redis and a real Elasticsearch where they can be had, sinks that keep them in step, and a
 * row that is changed on MySQL and looked for in both.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { privateService, type Service } from '../test/support/services.ts'
import { startSluice } from '../test/support/sluice.ts'

interface Source {
  readonly source: object
  readonly database: string
  query(sql: string): Promise<unknown>
}
/** A copy of the table: what one row of it says there, as text; "" when it is not there. */
interface Copy {
  readonly name: string
  readonly sink: object
  look(id: number): Promise<string>
}

const say = (text: string): void => console.log(text)
const LONGEST_MS = 15_000

export async function inStep(from: Source): Promise<void> {
  const { source, database } = from
  await using stack = new AsyncDisposableStack()
  const copies = [...(await redisCopy(stack)), ...(await searchCopy(stack))]
  if (copies.length === 0) return say('   neither can be had on this machine: left out')
  const dir = mkdtempSync(join(tmpdir(), 'sluice-demo-sinks-'))
  stack.defer(() => rmSync(dir, { recursive: true, force: true }))
  const sinks = Object.fromEntries(copies.map(({ name, sink }) => [name, sink]))
  const filter = { include: `${database}\\.orders` }
  const sluice = await startSluice({ dir, instances: { shop: { source, filter, sinks } } })
  stack.defer(async () => void (await sluice.stop()))
  for (const { name } of copies) await sluice.logged(`sink ${name} running`)
  const sqls = [
    "INSERT INTO DB.orders VALUES (7, 'cocoa', 1, 5.10)",
    'UPDATE DB.orders SET amount = 12 WHERE id = 7',
    'DELETE FROM DB.orders WHERE id = 7',
  ]
  for (const sql of sqls) {
    say(`\n   mysql> ${sql.replace('DB.', '')}`)
    const before = await Promise.all(copies.map((copy) => copy.look(7)))
    await from.query(sql.replace('DB', database))
    const begin = performance.now()
    await Promise.all(copies.map((copy, i) => changed(copy, before[i]!, begin)))
  }
}

/** Waits until the copy says something else than before. */
async function changed(copy: Copy, before: string, begin: number): Promise<void> {
  for (;;) {
    const now = await copy.look(7)
    const ms = Math.round(performance.now() - begin)
    if (now !== before) return say(`   ${copy.name}, after ${ms} ms: ${now || 'gone'}`)
    if (ms > LONGEST_MS)
      throw new Error(`${copy.name}: the change did not arrive in ${LONGEST_MS} ms`)
    await sleep(2)
  }
}

/** A server of its own; undefined, and said, where there is none. */
async function had(
  name: 'redis' | 'elasticsearch',
  stack: AsyncDisposableStack,
): Promise<Service | undefined> {
  try {
    return stack.use(await privateService(name))
  } catch (error) {
    say(`   no ${name} here: ${(error as Error).message.split('\n')[0]}`)
    return undefined
  }
}

async function redisCopy(stack: AsyncDisposableStack): Promise<Copy[]> {
  const redis = await had('redis', stack)
  if (!redis) return []
  const client = stack.adopt(new Redis(redis.port, redis.host), (c) => c.disconnect())
  const rules = [{ kind: 'string', key: 'order:{id}' }]
  return [
    {
      name: 'redis',
      sink: { type: 'redis', host: redis.host, port: redis.port, rules },
      look: async (id) => (await client.get(`order:${id}`)) ?? '',
    },
  ]
}

async function searchCopy(stack: AsyncDisposableStack): Promise<Copy[]> {
  const search = await had('elasticsearch', stack)
  if (!search) return []
  return [
    {
      name: 'elasticsearch',
      sink: { type: 'elasticsearch', nodes: [search.url], index: 'orders', refresh: 'now' },
      async look(id) {
        // found by a search, as an application would
        const url = `${search.url}/orders/_search?ignore_unavailable=true&q=id:${id}`
        const found = (await (await fetch(url)).json()) as {
          hits?: { hits: { _source: object }[] }
        }
        const [hit] = found.hits?.hits ?? []
        return hit ? JSON.stringify(hit._source) : ''
      },
    },
  ]
}
