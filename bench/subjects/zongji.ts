/** @vlasky/zongji decoding every row to objects; each value is touched. */
import ZongJi from '@vlasky/zongji'
import { finish, task } from './common.ts'

interface RowsEvent {
  getTypeName(): string
  rows?: readonly Record<string, unknown>[]
}
const zongji = new ZongJi({
  host: task.host,
  port: task.port,
  user: task.user,
  password: task.password,
})
let rows = 0
let touched = 0
function touch(row: Record<string, unknown>): void {
  for (const name in row) if (row[name] !== undefined) touched++
}
zongji.on('binlog', (event: unknown) => {
  const e = event as RowsEvent
  if (!e.rows) return
  const update = e.getTypeName() === 'UpdateRows'
  for (const row of e.rows) {
    if (update) {
      touch((row as { before: Record<string, unknown> }).before)
      touch((row as { after: Record<string, unknown> }).after)
    } else touch(row)
  }
  rows += e.rows.length
  if (rows >= task.rows) finish(rows, { touched })
})
zongji.on('error', (error: unknown) => {
  throw error
})
zongji.start({
  serverId: 424_243,
  filename: task.file,
  position: task.from,
  includeEvents: ['tablemap', 'writerows', 'updaterows', 'deleterows'],
  includeSchema: { [task.database]: true },
})
