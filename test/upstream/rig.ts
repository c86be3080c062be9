/** An instance in a folder of its own, its log kept, and a client that reads the keys of inserted rows. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { stringify } from 'yaml'
import { loadInstance, orThrow } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import type { ReaderThread } from '../../src/sources/index.ts'
import type { Cursor } from '../../src/store/cursor.ts'
import type { MysqlServer, MysqlVersion } from '../support/mysql.ts'

const never = new AbortController().signal

export const sourceOf = ({ host, port, user, password }: MysqlServer) => ({
  host,
  port,
  user,
  password,
  heartbeatMs: 200,
  connectTimeoutMs: 2000,
})
export const numbers = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, i) => from + i)
/** These tests look at one version; the oldest and the newest differ little here, and a server costs seconds. */
export const newest = (versions: readonly MysqlVersion[]): MysqlVersion => versions[0]!

export class Rig {
  readonly dir = mkdtempSync(join(tmpdir(), 'sluice-upstream-'))
  readonly lines: Record<string, unknown>[] = []

  open(config: object, thread?: ReaderThread): Instance {
    const file = join(this.dir, 'orders.yaml')
    const retry = { minMs: 20, maxMs: 200 }
    writeFileSync(file, stringify({ retry, filter: { include: 'p8\\..*' }, ...config }))
    const write = (line: string): void => {
      this.lines.push(JSON.parse(line) as Record<string, unknown>)
    }
    return Instance.open({
      name: 'orders',
      config: orThrow(loadInstance(file, {})),
      dataDir: this.dir,
      log: pino({ level: 'debug' }, { write }),
      thread,
    })
  }
  close(): void {
    rmSync(this.dir, { recursive: true })
  }
  async until(what: () => boolean): Promise<void> {
    while (!what()) await sleep(10)
  }
  state(instance: Instance, wanted: string): Promise<void> {
    return this.until(() => instance.status.state === wanted)
  }
  /** The message of the last line that contains `text` anywhere; "" when there is none. */
  logged(text: string): string {
    const line = this.lines.findLast((l) => JSON.stringify(l).includes(text))
    return (line?.['msg'] as string | undefined) ?? ''
  }
  /** The ids that a cursor delivers until `last`, each batch acked. */
  async read(cursor: Cursor, last: number): Promise<unknown[]> {
    const ids: unknown[] = []
    while (ids.at(-1) !== last) {
      const batch = await cursor.get({ changes: 100, bytes: 1 << 20, waitMs: 1000 }, never)
      if (!batch) continue
      for (const { tx, from, to } of batch.parts) {
        for (const change of tx.changes.slice(from, to)) {
          if (change.kind === 'insert') for (const row of change.rows()) ids.push(row.after?.[0])
        }
      }
      batch.release()
      await cursor.ack(batch.id)
    }
    return ids
  }
}
