/**
 * Events of MariaDB's as the builder wants them: as MySQL would have written them.
 */
import { mariadbCollation } from '../../binlog/charset.ts'
import type { Query } from '../../binlog/event.ts'
import { inflateEvent, plainType } from '../../binlog/mariadb/events.ts'
import type { Format } from '../../binlog/reader.ts'
import type { Event } from './pending.ts'

/** A compressed event at hand becomes a plain one; its place and length stay those in the log. */
export function inflate(event: Event, format: Format): void {
  event.bytes = inflateEvent(event.bytes, event.start, event.end, format)
  event.start = 0
  event.end = event.bytes.length
  event.type = plainType(event.type)
}

/** Collations by the ids under which they are known here. */
export const withOurCollations = (query: Query): Query => ({
  ...query,
  serverCollation: mariadbCollation(query.serverCollation),
})
