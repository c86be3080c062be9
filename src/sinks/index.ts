/**
 * The sinks there are: one line each.
 */
import type { SinkType } from './sink.ts'
import { sql } from './sql.ts'

export const sinkTypes: readonly SinkType[] = [sql]
