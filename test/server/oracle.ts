/**
 * The Canal messages for protobufjs: an independent reader and writer, from the field numbers of the wire document.
 * Entries are proto2, as in the released Java artefacts; packets are proto3 (optional stands for their one-member oneofs).
 */
import protobuf from 'protobufjs'

const entries = `
syntax = "proto2";
message Entry { optional Header header = 1; optional int32 entryType = 2; optional bytes storeValue = 3; }
message Header {
  optional int32 version = 1; optional string logfileName = 2; optional int64 logfileOffset = 3;
  optional int64 serverId = 4; optional string serverenCode = 5; optional int64 executeTime = 6;
  optional int32 sourceType = 7; optional string schemaName = 8; optional string tableName = 9;
  optional int64 eventLength = 10; optional int32 eventType = 11; repeated Pair props = 12; optional string gtid = 13;
}
message Column {
  optional int32 index = 1; optional int32 sqlType = 2; optional string name = 3; optional bool isKey = 4;
  optional bool updated = 5; optional bool isNull = 6; repeated Pair props = 7; optional string value = 8;
  optional int32 length = 9; optional string mysqlType = 10;
}
message RowData { repeated Column beforeColumns = 1; repeated Column afterColumns = 2; repeated Pair props = 3; }
message RowChange {
  optional int64 tableId = 1; optional int32 eventType = 2; optional bool isDdl = 10; optional string sql = 11;
  repeated RowData rowDatas = 12; repeated Pair props = 13; optional string ddlSchemaName = 14;
}
message TransactionBegin {
  optional int64 executeTime = 1; optional string transactionId = 2; repeated Pair props = 3; optional int64 threadId = 4;
}
message TransactionEnd { optional int64 executeTime = 1; optional string transactionId = 2; repeated Pair props = 3; }
message Pair { optional string key = 1; optional string value = 2; }
`
const packets = `
syntax = "proto3";
message Packet {
  optional int32 magic_number = 1; optional int32 version = 2; int32 type = 3; optional int32 compression = 4; bytes body = 5;
}
message Messages { int64 batch_id = 1; repeated bytes messages = 2; }
message Ack { optional int32 error_code = 1; string error_message = 2; }
`
const entryRoot = protobuf.parse(entries, { keepCase: true }).root
const packetRoot = protobuf.parse(packets, { keepCase: true }).root

export interface PairMessage {
  key: string
  value: string
}
export interface ColumnMessage {
  index: number
  sqlType: number
  name: string
  isKey: boolean
  updated: boolean
  isNull: boolean
  value?: string
  mysqlType?: string
}
export interface EntryMessage {
  header: Record<string, unknown> & { props?: PairMessage[]; gtid?: string; eventType?: number }
  entryType: number
  storeValue: Uint8Array
}
export interface RowChangeMessage {
  tableId?: number
  eventType: number
  isDdl?: boolean
  sql?: string
  rowDatas?: { beforeColumns?: ColumnMessage[]; afterColumns?: ColumnMessage[] }[]
  props?: PairMessage[]
  ddlSchemaName?: string
}

/** Decodes; fields that are not on the wire are missing. Throws when encoding again gives other bytes. */
function read(type: protobuf.Type, bytes: Uint8Array): unknown {
  const message = type.decode(bytes)
  const again = type.encode(message).finish()
  if (!Buffer.from(again).equals(bytes)) {
    const hex = (b: Uint8Array): string => Buffer.from(b).toString('hex')
    throw new Error(`${type.name} is not in canonical form:\n${hex(bytes)}\n${hex(again)}`)
  }
  return type.toObject(message, { longs: Number, arrays: false, defaults: false })
}
export const decodeEntry = (bytes: Uint8Array): EntryMessage =>
  read(entryRoot.lookupType('Entry'), bytes) as EntryMessage
export const decodeRowChange = (bytes: Uint8Array): RowChangeMessage =>
  read(entryRoot.lookupType('RowChange'), bytes) as RowChangeMessage
export const decodeEnd = (bytes: Uint8Array): { transactionId: string; props?: PairMessage[] } =>
  read(entryRoot.lookupType('TransactionEnd'), bytes) as { transactionId: string }
export const decodePacket = (
  bytes: Uint8Array,
): { version?: number; type: number; body: Uint8Array } =>
  read(packetRoot.lookupType('Packet'), bytes) as { type: number; body: Uint8Array }
export const decodeMessages = (bytes: Uint8Array): { batch_id: number; messages?: Uint8Array[] } =>
  read(packetRoot.lookupType('Messages'), bytes) as { batch_id: number }
export const decodeAck = (bytes: Uint8Array): { error_code?: number; error_message?: string } =>
  read(packetRoot.lookupType('Ack'), bytes) as { error_code?: number }
