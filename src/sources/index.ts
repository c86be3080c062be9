/**
 * The sources there are, and nothing else: one line for each.
 */
export { filesSource, type FilesSourceOptions } from './files.ts'
export {
  logEnd,
  logStatus,
  mysqlSource,
  scanStatements,
  sourceFacts,
  type Acknowledge,
  type MysqlSourceOptions,
  type SourceFacts,
} from './mysql.ts'
export {
  fileSeconds,
  findBoundary,
  findTime,
  logFiles,
  refuseIncident,
  type LogFile,
} from './places.ts'
export { pressureProbe } from './snapshot/pressure.ts'
export { ReaderThread, type ThreadSourceOptions } from './thread/thread.ts'
export { keptOf, LoggedTransaction } from './log/logged.ts'
export {
  isRows,
  NUMBERS,
  withRoom,
  type Detail,
  type RowsDetail,
  type RowsKind,
} from './log/pending.ts'
