/**
 * Where whole lines go, and what the errors of a file system mean to a sink.
 */
import { SluiceError } from '../../errors.ts'

/** One write is begin, some puts, commit. A begin after a write that did not get to its commit takes that one back. */
export interface Lines {
  begin(): Promise<void>
  /** Whole lines; the memory is the caller's again when it resolves. */
  put(lines: readonly Buffer[], signal: AbortSignal): Promise<void>
  /** Resolves when all that was put is where a crash of the machine cannot reach it. `more`: the next begin comes at once. */
  commit(more: boolean): Promise<void>
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
