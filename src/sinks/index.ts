/**
 * The sinks there are: one line each.
 */
import type { SinkType } from './sink.ts'

export const sinkTypes: readonly SinkType[] = []
