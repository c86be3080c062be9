/** What tests of the SDK share: how they connect to a Harness, and the ids that a batch has. */
import type { Batch, ConnectOptions } from '../../src/client.ts'

export const FAST = { delayMs: 5, delayMaxMs: 20 }
export const to = (port: number, more: Partial<ConnectOptions> = {}): ConnectOptions => ({
  port,
  destination: 'example',
  retry: FAST,
  ...more,
})
export const idsOf = (batch: Batch): bigint[] =>
  batch.changes.flatMap((change) =>
    change.kind === 'rows' ? change.rows.map((row) => row.after!['id'] as bigint) : [],
  )
