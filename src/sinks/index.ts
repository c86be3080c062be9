/**
 * The sinks there are: one line each.
 */
import { kafka } from './kafka.ts'
import type { SinkType } from './sink.ts'

export const sinkTypes: readonly SinkType[] = [kafka]
