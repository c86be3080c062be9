/**
 * The sinks there are: one line each.
 */
import { elasticsearch } from './elasticsearch.ts'
import { file } from './file.ts'
import { http } from './http.ts'
import { kafka } from './kafka.ts'
import { redis } from './redis.ts'
import { sql } from './sql.ts'
import type { SinkType } from './sink.ts'

export const sinkTypes: readonly SinkType[] = [elasticsearch, file, http, kafka, redis, sql]
