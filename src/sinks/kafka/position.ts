/**
 * The record in which an exactly-once sink keeps its position: written in the transaction of the rows it stands for, read
 * back when a producer begins. Says who wrote it, so that a Sluice that was replaced can tell and stop. Pure.
 *
 *   key   INSTANCE/SINK
 *   value { v: 1, owner, fence, version, position }
 *
 * `version` is the last row that is in the topics: rows up to it are passed over. `position` is where reading goes on:
 * behind that row, or before it when it was written within a batch.
 */
import type { Position } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { GtidSet } from '../../gtid.ts'
import { versionBefore } from '../shape/version.ts'

export interface PositionRecord {
  readonly owner: string
  readonly fence: number
  readonly version: string
  readonly position: Position
}

export function writeRecord({ owner, fence, version, position }: PositionRecord): Buffer {
  const gtids = position.gtids?.toString() ?? null
  return Buffer.from(
    JSON.stringify({ v: 1, owner, fence, version, position: { ...position, gtids } }),
  )
}

/** Throws SINK_UNSUITABLE for what no Sluice has written. */
export function readRecord(bytes: Buffer, topic: string): PositionRecord {
  try {
    const { v, owner, fence, version, position } = JSON.parse(
      bytes.toString(),
    ) as PositionRecord & {
      v: number
      position: { gtids: string | null }
    }
    if (v !== 1 || !/^[0-9a-f]{40}$/.test(version)) throw new Error(`v ${v}, version ${version}`)
    const gtids = position.gtids === null ? undefined : GtidSet.parse(String(position.gtids))
    return { owner, fence, version, position: { ...position, gtids } }
  } catch (cause) {
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `Kafka: the last record of topic ${topic} is no position of Sluice: ${(cause as Error).message}`,
      { cause },
    )
  }
}

/** The record's position unless the local one, which moves over filtered traffic too, is further on. */
export function laterPosition({ position }: PositionRecord, local: Position): Position | undefined {
  return versionBefore(position) >= versionBefore(local) ? position : undefined
}
