/**
 * What an instance file would do, without doing it: its problems, and on request the tables of the source that it wants and
 * how the first changes of the newest log file would look. Touches no state; its connections are its own.
 */
import * as z from 'zod'
import { openSource, type OwnSource } from '../../commands/common.ts'
import type { InstanceConfig } from '../../config/config.ts'
import { compileFilter, everything } from '../../filter.ts'
import { isRows, jsonRow } from '../../shown.ts'
import type { Panel } from '../panel.ts'
import { faultView } from './views.ts'

const TABLES_MAX = 500
const ROWS_MAX = 10
const READ_MS = 3000

export const dryRunReply = z.strictObject({
  valid: z.boolean(),
  problems: z.array(faultView),
  source: z
    .strictObject({
      version: z.string(),
      server: z.string(),
      binlogFormat: z.string(),
      rowMetadata: z.string(),
      gtidMode: z.string(),
      end: z.string(),
    })
    .nullable(),
  tables: z
    .strictObject({
      wanted: z.int(),
      all: z.int(),
      names: z.array(z.string()).describe(`of the wanted ones, the first ${TABLES_MAX}`),
    })
    .nullable(),
  sample: z
    .array(z.record(z.string(), z.unknown()))
    .nullable()
    .describe(`at most ${ROWS_MAX} rows from the newest file of the log`),
})
type Reply = z.input<typeof dryRunReply>

export async function dryRun(
  panel: Panel,
  {
    body,
  }: {
    readonly body: {
      readonly destination: string
      readonly yaml: string
      readonly connect: boolean
    }
  },
): Promise<Reply> {
  const { destination, yaml, connect } = body
  const { config, faults } = panel.files.check(destination, yaml)
  const problems = [...faults]
  const none = { source: null, tables: null, sample: null }
  if (!config) return { valid: false, problems, ...none }
  if (!connect) return { valid: true, problems, ...none }
  using source = await openSource(config, panel.book.log)
  const { facts } = source
  return {
    valid: true,
    problems,
    source: {
      version: facts.version,
      server: facts.serverUuid,
      binlogFormat: facts.binlogFormat,
      rowMetadata: facts.rowMetadata,
      gtidMode: facts.gtidMode,
      end: `${facts.latest.file}:${facts.latest.offset}`,
    },
    tables: await tablesOf(source, config),
    sample: await sampleOf(source),
  }
}

async function tablesOf(
  { lookup }: OwnSource,
  { filter }: InstanceConfig,
): Promise<Reply['tables']> {
  const rows = await lookup.query<{ db: string; tab: string }>(
    "SELECT TABLE_SCHEMA AS db, TABLE_NAME AS tab FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' " +
      "AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1, 2",
  )
  const wants = compileFilter(filter)
  const names = rows.filter((r) => wants(r.db, r.tab)).map((r) => `${r.db}.${r.tab}`)
  return { wanted: names.length, all: rows.length, names: names.slice(0, TABLES_MAX) }
}
async function sampleOf(source: OwnSource): Promise<Record<string, unknown>[]> {
  const shown: Record<string, unknown>[] = []
  const { latest } = source.facts
  const begin = { ...latest, offset: 4, skip: 0, gtids: undefined, timestamp: 0 }
  const signal = AbortSignal.timeout(READ_MS)
  for await (const tx of source.read(begin, everything, signal)) {
    try {
      for (const change of tx.changes) {
        if (!isRows(change)) continue
        for (const row of change.rows()) {
          if (shown.length < ROWS_MAX)
            shown.push(jsonRow(tx, change, row) as Record<string, unknown>)
        }
      }
      const past =
        tx.state !== 'open' && (tx.endFile !== latest.file || tx.endOffset >= latest.offset)
      if (shown.length >= ROWS_MAX || past) break
    } finally {
      tx.slab?.release()
    }
  }
  return shown
}
