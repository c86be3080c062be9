/**
 * The ceiling of the SQL sink on MySQL and MariaDB: the same driver sends upserts of many rows whose text was made
 * beforehand, as large as the sink's statements are by default, each in a transaction of its own, one after the other.
 * Placeholders would be slower: the driver encodes them one by one, and the server takes 65,535 of them at most.
 */
import { createConnection } from 'mysql2/promise'
import { all, narrow, timed, url } from './common.ts'

const STATEMENT = 2000
const client = await createConnection({ uri: url, charset: 'utf8mb4' })
await client.query(
  'CREATE TABLE narrow (id BIGINT PRIMARY KEY, n INT NOT NULL, a CHAR(120) NOT NULL, b CHAR(60) NOT NULL)',
)
const statements: string[] = []
for (let from = 0; from < all; from += STATEMENT) {
  const tuples: string[] = []
  for (let id = from; id < Math.min(from + STATEMENT, all); id++) {
    const { n, a, b } = narrow(id)
    tuples.push(`(${id},${n},'${a}','${b}')`)
  }
  statements.push(
    `INSERT INTO narrow (id,n,a,b) VALUES ${tuples.join(',')} ` +
      'ON DUPLICATE KEY UPDATE n=VALUES(n),a=VALUES(a),b=VALUES(b)',
  )
}

await timed(async (from, to) => {
  for (const statement of statements.slice(from / STATEMENT, Math.ceil(to / STATEMENT)))
    await client.query(statement)
})
