/**
 * Why a request is not done, with the status of its answer.
 */
import type { ErrorCode } from '../errors.ts'

/** Something wrong in a text that was sent. */
export interface Fault {
  readonly line: number
  readonly column: number
  readonly key: string
  readonly message: string
}
/** A request that is not done, with the status of its answer. */
export class Refused extends Error {
  override readonly name = 'Refused'
  readonly status: number
  readonly code: ErrorCode
  readonly faults: readonly Fault[] | undefined
  constructor(status: number, code: ErrorCode, message: string, faults?: readonly Fault[]) {
    super(message)
    this.status = status
    this.code = code
    this.faults = faults
  }
}
/** What is in the path is not there. */
export const notFound = (message: string): Refused => new Refused(404, 'REQUEST_INVALID', message)
/** It cannot be done as things are now. */
export const notNow = (message: string): Refused => new Refused(409, 'NOT_NOW', message)
