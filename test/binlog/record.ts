/**
 * Records test/fixtures/events-VERSION.bin, the events of test/binlog/statements.ts as a server of its own wrote them:
 * `npx node test/binlog/record.ts HOST:PORT VERSION` (user and password canal). Events follow each other, checksums
 * included, the two long blocks of LOAD DATA left out.
 */
import { writeFileSync } from 'node:fs'
import { eventName, eventType } from '../../src/binlog/reader.ts'
import { dump } from './dump.ts'
import { writeAnonymous, writeEveryEvent } from './statements.ts'

const [address, version] = process.argv.slice(2)
const [host, port] = address!.split(':')
const server = { host: host!, port: Number(port), user: 'canal', password: 'canal' }
const file = await writeEveryEvent(server, version!.startsWith('8') ? 8 : 9, 'events')
await writeAnonymous(server, 'events')
const events = await dump(server, file)
const kept = events.filter((event) => event.length < 10_000)
writeFileSync(new URL(`../fixtures/events-${version}.bin`, import.meta.url), Buffer.concat(kept))
console.log(
  kept.length,
  [...new Set(kept.map((event) => eventName(eventType(event, 0))))].join(' '),
)
