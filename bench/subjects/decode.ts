/** Sluice decoding every row to values: source, builder, catalog and value readers; no store, no wire. */
import { compileFilter } from '../../src/filter.ts'
import { AFTER, BEFORE } from '../../src/change.ts'
import { benchSource } from './source.ts'
import { finish, task } from './common.ts'

const { source, from } = benchSource(
  task,
  compileFilter({ exclude: '', include: `${task.database}\\..*` }),
)
let rows = 0
let touched = 0
for await (const tx of source.read(from, new AbortController().signal)) {
  for (const change of tx.changes) {
    if (change.kind !== 'insert' && change.kind !== 'update' && change.kind !== 'delete') continue
    const reader = change.reader()
    const columns = change.table.columns.length
    while (reader.next()) {
      for (let c = 0; c < columns; c++) {
        if (reader.value(BEFORE, c) !== undefined) touched++
        if (reader.value(AFTER, c) !== undefined) touched++
      }
      rows++
    }
  }
  tx.slab?.release()
  if (rows >= task.rows) finish(rows, { touched })
}
throw new Error('the source ended early')
