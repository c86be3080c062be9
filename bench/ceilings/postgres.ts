/**
 * The ceiling of the SQL sink on PostgreSQL: the same driver runs one prepared upsert, its parameters one array per column
 * that was made beforehand, as many rows each as the sink's statements have by default, one after the other.
 */
import { Client } from 'pg'
import { all, narrow, timed, url, type Narrow } from './common.ts'

const STATEMENT = 2000
const client = new Client({ connectionString: url })
await client.connect()
await client.query(
  'CREATE TABLE narrow (id BIGINT PRIMARY KEY, n INT NOT NULL, a CHAR(120) NOT NULL, b CHAR(60) NOT NULL)',
)
const text = `INSERT INTO narrow (id,n,a,b)
  SELECT * FROM unnest($1::bigint[],$2::int[],$3::bpchar[],$4::bpchar[])
  ON CONFLICT (id) DO UPDATE SET n=EXCLUDED.n,a=EXCLUDED.a,b=EXCLUDED.b`
const calls: string[][] = []
for (let from = 0; from < all; from += STATEMENT) {
  const some = Array.from({ length: Math.min(STATEMENT, all - from) }, (_, i) => narrow(from + i))
  const array = (column: keyof Narrow): string => `{${some.map((row) => row[column]).join(',')}}`
  calls.push([array('id'), array('n'), array('a'), array('b')])
}

await timed(async (from, to) => {
  for (const values of calls.slice(from / STATEMENT, Math.ceil(to / STATEMENT)))
    await client.query({ name: 'ceiling', text, values })
})
