/**
 * Where whole lines go, and what the errors of a file system mean to a sink.
 */
import { SluiceError } from '../../errors.ts'

/**
 * One write is begin, some puts, commit; the next may begin as soon as commit was called. Commits resolve in order, and when
 * one fails, so do those behind it. A begin after a write that did not get to its commit, or after one that failed, takes
 * back what was put since the last commit that did not.
 */
export interface Lines {
  /** `fresh`: no write is under way. When one before it failed, it throws unless it is. */
  begin(fresh: boolean): Promise<void>
  /** Whole lines; the memory is the caller's again when it resolves. */
  put(lines: readonly Buffer[], signal: AbortSignal): Promise<void>
  /** Resolves when all that was put is where a crash of the machine cannot reach it. */
  commit(): Promise<void>
  close(): Promise<void>
}

/** What only somebody can put right; anything else (a full disk above all) may pass. */
const lasting = new Set([
  'EACCES',
  'EPERM',
  'EISDIR',
  'ENOTDIR',
  'EEXIST',
  'EINVAL',
  'ELOOP',
  'ENAMETOOLONG',
])

/** An error of the file system as one of ours; ours stay as they are. */
export function fileError(error: unknown, doing: string): Error {
  if (error instanceof SluiceError) return error
  const { code = '', message } = error as NodeJS.ErrnoException
  if (!/^E[A-Z0-9]+$/.test(code)) return error as Error
  const kind = lasting.has(code) ? 'SINK_UNSUITABLE' : 'SINK_UNAVAILABLE'
  return new SluiceError(kind, `${doing}: ${message}`, { cause: error })
}
