/**
 * The message formats there are: one line each.
 */
import { cloudevents, cloudeventsBinary } from './cloudevents.ts'
import { debezium, debeziumSchema } from './debezium/envelope.ts'
import { canalJson } from './flat.ts'
import type { Format } from './format.ts'
import { maxwell } from './maxwell.ts'
import { canalProtobuf } from './packets.ts'
import { sluice } from './sluice.ts'

export const formats = {
  'canal-json': canalJson,
  'canal-protobuf': canalProtobuf,
  debezium,
  'debezium-schema': debeziumSchema,
  cloudevents,
  'cloudevents-binary': cloudeventsBinary,
  maxwell,
  sluice,
} as const satisfies Record<string, Format>

export type FormatName = keyof typeof formats
export const formatNames = Object.keys(formats) as [FormatName, ...FormatName[]]
