/**
 * `npm run demo`: a real MySQL, Sluice in front of it, changes made in the one and printed by a client of the other; then
 * a row that appears in Redis and Elasticsearch as soon as it has changed.
 * Everything runs on free ports and in temporary folders, and is gone at the end.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect, type Batch } from '../src/client.ts'
import { anyMysql, uniqueDatabase } from '../test/support/mysql.ts'
import { startSluice } from '../test/support/sluice.ts'
import { inStep } from './sinks.ts'

const say = (text: string): void => console.log(text)

say(
  '1. A MySQL server. It is looked for, or fetched into a cache the first time; nothing is installed.',
)
await using mysql = await anyMysql()
const { host, port, user, password } = mysql
say(`   MySQL ${mysql.version} on ${host}:${port}`)
const database = uniqueDatabase('demo')
await mysql.query(`CREATE DATABASE ${database}`)
await mysql.query(
  `CREATE TABLE ${database}.orders (id BIGINT PRIMARY KEY, item VARCHAR(40), amount INT, price DECIMAL(9, 2))`,
)

say('2. Sluice, posing as its replica (npx sluice serve, on a configuration made for this demo).')
const dir = mkdtempSync(join(tmpdir(), 'sluice-demo-'))
const sluice = await startSluice({
  dir,
  instances: {
    shop: { source: { host, port, user, password }, filter: { include: `${database}\\..*` } },
  },
})
say(`   destination "shop" on 127.0.0.1:${sluice.port}`)

say('3. Changes made on MySQL, and what a client of the SDK gets and acks:')
const client = await connect({ port: sluice.port, destination: 'shop' })
const statements = [
  `INSERT INTO ${database}.orders VALUES (1, 'tea', 3, 8.70), (2, 'coffee', 1, 4.20)`,
  `UPDATE ${database}.orders SET amount = 5 WHERE id = 1`,
  `DELETE FROM ${database}.orders WHERE id = 2`,
]
for (const sql of statements) {
  say(`\n   mysql> ${sql.replaceAll(`${database}.`, '')}`)
  await mysql.query(sql)
  await printed()
}

await client.close()
await sluice.stop()
say(`\n   ${statements.length} transactions, delivered and acked.\n`)

say('4. The same table kept in step in Redis and in Elasticsearch, by sinks:')
await inStep({ source: { host, port, user, password }, database, query: (sql) => mysql.query(sql) })

await mysql.query(`DROP DATABASE ${database}`)
rmSync(dir, { recursive: true, force: true })
say(`
Done.

Next, with a MySQL of your own:
  1. edit instances/example.yaml (host, user, password)
  2. npx sluice check      what is right and wrong with that server, and how to mend it
  3. npx sluice tail example    watch its changes
  4. npx sluice serve      serve them to Canal clients and the SDK on 127.0.0.1:11111
README.md has the rest.`)

/** Prints and acks batches until one had rows. */
async function printed(): Promise<void> {
  for await (const batch of client.batches()) {
    const rows = print(batch)
    await batch.ack()
    say(`   acked batch ${batch.id}`)
    if (rows > 0) return
  }
}
function print(batch: Batch): number {
  let count = 0
  for (const change of batch.changes) {
    if (change.kind !== 'rows') continue
    for (const { before, after } of change.rows) {
      count++
      const images = [before && `before ${show(before)}`, after && `after ${show(after)}`]
      say(`   ${change.type} ${change.table}: ${images.filter(Boolean).join('  ')}`)
    }
  }
  return count
}
function show(image: object): string {
  const values = Object.entries(image).map(([name, v]) => `${name}=${String(v)}`)
  return `{${values.join(', ')}}`
}
