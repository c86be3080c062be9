/**
 * What a running Sluice tells whoever listens in the same process, over Node's diagnostics channels: OpenTelemetry or anything else can
 * make spans and metrics of it (docs/diagnostics.md). A channel nobody listens to costs one comparison. Never rows, never secrets.
 */
import { channel } from 'node:diagnostics_channel'
import { SluiceError, withoutPasswords } from './errors.ts'

/** Without passwords. */
export interface Told {
  readonly code: string | undefined // of docs/errors.md
  readonly message: string
}
/** An error as it may leave here. */
export function told(error: unknown): Told | undefined {
  if (error === undefined) return undefined
  const message = withoutPasswords(
    error instanceof Error ? error.message : `no Error: ${JSON.stringify(error)}`,
  )
  return { code: error instanceof SluiceError ? error.code : undefined, message }
}

/** `sluice:state`: an instance or a sink has entered a state. */
export interface StateMessage {
  readonly instance: string
  readonly sink: string | undefined // undefined: the instance itself
  readonly state: string
  readonly position: string | undefined
  readonly error: Told | undefined
}
/** `sluice:batch`: a client or a sink was given a batch. */
export interface BatchMessage {
  readonly instance: string
  readonly client: string // of a sink "sink:NAME"
  readonly id: bigint
  readonly changes: number
  readonly bytes: number // of binlog
  readonly redelivered: boolean
  readonly start: string // positions
  readonly end: string
  readonly committedAt: number // ms since 1970, at the source, of its last transaction
}
/** `sluice:ack`: a client or a sink is done with a batch. */
export interface AckMessage {
  readonly instance: string
  readonly client: string
  readonly id: bigint
  readonly changes: number
  readonly bytes: number
}
/** `sluice:sink:write`: a sink has written to its target, or could not. */
export interface WriteMessage {
  readonly instance: string // "" in a worker
  readonly sink: string
  readonly startedAt: number // ms since 1970
  readonly ms: number
  readonly rows: number // confirmed by the target
  readonly refused: number // rows that it did not take
  readonly error: Told | undefined // undefined: the write as a whole went well
}

/** A channel with one kind of message. Ask `hasSubscribers` before a message is made. */
interface Typed<T> {
  readonly hasSubscribers: boolean
  publish(message: T): void
}
export const stateChannel = channel('sluice:state') as Typed<StateMessage>
export const batchChannel = channel('sluice:batch') as Typed<BatchMessage>
export const ackChannel = channel('sluice:ack') as Typed<AckMessage>
export const writeChannel = channel('sluice:sink:write') as Typed<WriteMessage>
