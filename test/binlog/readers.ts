/** One function over all event readers, for tests that do not care which one: type → what its reader returns. */
import {
  readExecuteLoadQuery,
  readGtid,
  readHeartbeat,
  readIncident,
  readIntvar,
  readLoadBlock,
  readPreviousGtids,
  readQuery,
  readRand,
  readRotate,
  readRowsQuery,
  readTransactionContext,
  readTransactionPayload,
  readUserVar,
  readViewChange,
  readXaPrepare,
  readXid,
  statementText,
} from '../../src/binlog/event.ts'
import {
  CHECKSUM_BYTES,
  eventSize,
  eventType,
  eventTypes as t,
  readFormat,
} from '../../src/binlog/reader.ts'
import type { Format } from '../../src/binlog/reader.ts'
import { readMetadata, readTableMap } from '../../src/binlog/table-map.ts'
import { readRowsHeader } from '../../src/binlog/rows-header.ts'

export type EventReader = (bytes: Buffer, start: number, end: number, format: Format) => unknown

const text = (value: { toString(): string }): string => value.toString()

export const readers = new Map<number, EventReader>([
  [t.FORMAT_DESCRIPTION, readFormat],
  [t.ROTATE, readRotate],
  [t.PREVIOUS_GTIDS, (bytes, start, end) => text(readPreviousGtids(bytes, start, end))],
  [t.HEARTBEAT, readHeartbeat],
  [t.HEARTBEAT_V2, readHeartbeat],
  [t.GTID, readGtid],
  [t.ANONYMOUS_GTID, readGtid],
  [t.GTID_TAGGED, readGtid],
  [t.XID, readXid],
  [t.XA_PREPARE, readXaPrepare],
  [t.ROWS_QUERY, readRowsQuery],
  [t.TRANSACTION_PAYLOAD, readTransactionPayload],
  [t.TRANSACTION_CONTEXT, readTransactionContext],
  [t.VIEW_CHANGE, readViewChange],
  [t.INCIDENT, readIncident],
  [t.INTVAR, readIntvar],
  [t.RAND, readRand],
  [t.USER_VAR, readUserVar],
  [t.BEGIN_LOAD_QUERY, readLoadBlock],
  [t.APPEND_BLOCK, readLoadBlock],
  [t.DELETE_FILE, readLoadBlock],
  [
    t.QUERY,
    (bytes, start, end) => {
      const query = readQuery(bytes, start, end)
      return { ...query, sql: statementText(bytes, query) }
    },
  ],
  [
    t.EXECUTE_LOAD_QUERY,
    (bytes, start, end) => {
      const query = readExecuteLoadQuery(bytes, start, end)
      return { ...query, sql: statementText(bytes, query) }
    },
  ],
  [
    t.TABLE_MAP,
    (bytes, start, end, format) => {
      const map = readTableMap(bytes, start, end, format)
      return { ...map, metadata: readMetadata(map) }
    },
  ],
  [t.WRITE_ROWS_V1, readRowsHeader],
  [t.UPDATE_ROWS_V1, readRowsHeader],
  [t.DELETE_ROWS_V1, readRowsHeader],
  [t.WRITE_ROWS, readRowsHeader],
  [t.UPDATE_ROWS, readRowsHeader],
  [t.DELETE_ROWS, readRowsHeader],
  [t.PARTIAL_UPDATE_ROWS, readRowsHeader],
])

/** Where the body of an event ends: only a format description takes its checksum along. */
export const bodyEnd = (event: Buffer): number =>
  eventType(event, 0) === t.FORMAT_DESCRIPTION ? event.length : event.length - CHECKSUM_BYTES

/** Events that follow each other in one piece. */
export function cut(bytes: Buffer): Buffer[] {
  const events: Buffer[] = []
  for (let at = 0; at < bytes.length; at += eventSize(bytes, at))
    events.push(bytes.subarray(at, at + eventSize(bytes, at)))
  return events
}
