/**
 * The sinks there are: one line each.
 */
import { file } from './file.ts'
import { http } from './http.ts'
import type { SinkType } from './sink.ts'
import { sql } from './sql.ts'

export const sinkTypes: readonly SinkType[] = [file, http, sql]
