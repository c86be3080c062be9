/**
 * The sinks there are: one line each.
 */
import { redis } from './redis.ts'
import type { SinkType } from './sink.ts'

export const sinkTypes: readonly SinkType[] = [redis]
