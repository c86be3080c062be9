/**
 * The body of bulk requests, written as bytes, and what becomes of each action in it. Actions on one document replace each
 * other as long as they wait here, so that a request holds at most one per document and requests may go out side by side.
 */
import { Out } from '../../out.ts'
import { SluiceError } from '../../errors.ts'
import { describeError, passes, type Client } from './client.ts'

/** A document. */
export interface Where {
  readonly index: string
  readonly id: string
  readonly routing: string | undefined
}
/** One action that the server refused. */
export interface Refused extends Where {
  readonly action: number
  readonly tag: number // what `begin` was given
  readonly status: number
  readonly type: string
  readonly reason: string // for people
  readonly passes: boolean // whether trying again can help
}
export interface BulkLimits {
  readonly bytes: number
  readonly actions: number
  readonly requests: number // side by side
  readonly refresh: 'none' | 'now' | 'wait'
}

interface Item {
  readonly status: number
  readonly error?: Parameters<typeof describeError>[0]
}
/** From `from` to `to` in the order of actions. */
interface Chunk {
  readonly from: number
  readonly to: number
}

const REFRESH = { none: {}, now: { refresh: 'true' }, wait: { refresh: 'wait_for' } }
const GROWN = 64 * 1024 * 1024

export class Bulk {
  readonly out = new Out(1024 * 1024)
  #starts: number[] = []
  #ends: number[] = []
  #tags: number[] = []
  #wheres: Where[] = []
  /** Replaced ones have no bytes: end = start. */
  get size(): number {
    return this.#starts.length
  }
  /** Begins an action; write it to `out`, then call `end`. Returns its number. */
  begin(tag: number, where: Where): number {
    this.#starts.push(this.out.at)
    this.#tags.push(tag)
    this.#wheres.push(where)
    return this.#starts.length - 1
  }
  end(): void {
    this.#ends.push(this.out.at)
  }
  /** Forgets an action that was begun and could not be written. */
  abandon(): void {
    if (this.#ends.length === this.#starts.length) return
    this.out.at = this.#starts.at(-1)!
    this.end()
  }
  /** Forgets an action that has a successor. */
  drop(action: number): void {
    this.#ends[action] = this.#starts[action]!
  }
  /** One action alone, with another version of its document. */
  again({ action, tag, ...where }: Refused, version: bigint): Bulk {
    const [start, end] = [this.#starts[action]!, this.#ends[action]!]
    const text = this.out.buf.toString('utf8', start, end)
    const one = new Bulk()
    one.begin(tag, where)
    one.out.utf8(text.replace(/"version":\d+/, `"version":${version}`))
    one.end()
    return one
  }
  reset(): void {
    this.out.reset()
    if (this.out.buf.length > GROWN) this.out.use(Buffer.allocUnsafeSlow(1024 * 1024))
    this.#starts = []
    this.#ends = []
    this.#tags = []
    this.#wheres = []
  }

  /** Sends everything; returns what was refused. Throws SINK_UNAVAILABLE, SINK_UNSUITABLE, and the signal's reason. */
  async send(client: Client, limits: BulkLimits, signal: AbortSignal): Promise<Refused[]> {
    const chunks = this.#chunks(limits)
    const refused: Refused[] = []
    let next = 0
    const worker = async (): Promise<void> => {
      while (next < chunks.length) {
        const chunk = chunks[next++]!
        try {
          await this.#sendChunk(client, limits, chunk, signal, refused)
        } catch (error) {
          next = chunks.length // the others send no more: it would only take longer
          throw error
        }
      }
    }
    const count = Math.min(limits.requests, chunks.length)
    const results = await Promise.allSettled(Array.from({ length: count }, worker))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    return refused
  }
  #chunks(limits: BulkLimits): Chunk[] {
    const chunks: Chunk[] = []
    let from = 0
    let bytes = 0
    let actions = 0
    for (let i = 0; i < this.size; i++) {
      const length = this.#ends[i]! - this.#starts[i]!
      if (length === 0) continue
      if (actions > 0 && (bytes + length > limits.bytes || actions === limits.actions)) {
        chunks.push({ from, to: i })
        from = i
        bytes = actions = 0
      }
      bytes += length
      actions++
    }
    if (actions > 0) chunks.push({ from, to: this.size })
    return chunks
  }
  /** The bytes of a chunk: a view where nothing in it was dropped. */
  #body({ from, to }: Chunk): { body: Buffer; actions: number[] } {
    const runs: Buffer[] = []
    const actions: number[] = []
    let start = -1
    let end = -1
    for (let i = from; i < to; i++) {
      if (this.#ends[i] === this.#starts[i]) continue
      actions.push(i)
      if (this.#starts[i] !== end) {
        if (start >= 0) runs.push(this.out.buf.subarray(start, end))
        start = this.#starts[i]!
      }
      end = this.#ends[i]!
    }
    runs.push(this.out.buf.subarray(start, end))
    return { body: runs.length === 1 ? runs[0]! : Buffer.concat(runs), actions }
  }
  async #sendChunk(
    client: Client,
    limits: BulkLimits,
    chunk: Chunk,
    signal: AbortSignal,
    refused: Refused[],
  ): Promise<void> {
    const { body, actions } = this.#body(chunk)
    const query = {
      filter_path: 'errors,items.*.status,items.*.error',
      ...REFRESH[limits.refresh],
    }
    const { status, text } = await client.request('POST', '/_bulk', {
      body,
      query,
      signal,
      accept: [413],
    })
    if (status === 413) return this.#halve(client, limits, actions, signal, refused)
    if (text.startsWith('{"errors":false')) return
    const { items } = JSON.parse(text) as { items?: Record<string, Item>[] }
    if (items?.length !== actions.length) {
      throw new SluiceError(
        'SINK_UNAVAILABLE',
        `expected ${actions.length} items in the answer to a bulk request, got ${items?.length ?? 'none'}`,
      )
    }
    for (const [i, item] of items.entries()) {
      const { status: code, error } = Object.values(item)[0]!
      if (error !== undefined) refused.push(this.#refused(actions[i]!, code, error))
    }
  }
  #refused(action: number, status: number, error: NonNullable<Item['error']>): Refused {
    const type = typeof error === 'string' ? error : (error.type ?? '')
    return {
      ...this.#wheres[action]!,
      action,
      tag: this.#tags[action]!,
      status,
      type,
      reason: describeError(error),
      passes: passes(status, type),
    }
  }
  /** The server takes no request so large: two smaller ones; one document alone is refused. */
  async #halve(
    client: Client,
    limits: BulkLimits,
    actions: readonly number[],
    signal: AbortSignal,
    refused: Refused[],
  ): Promise<void> {
    if (actions.length === 1) {
      const action = actions[0]!
      const bytes = this.#ends[action]! - this.#starts[action]!
      const error = {
        type: 'request_entity_too_large',
        reason: `the document has ${bytes} bytes, more than the server's http.max_content_length`,
      }
      refused.push(this.#refused(action, 413, error))
      return
    }
    const middle = actions[actions.length >> 1]!
    for (const half of [
      { from: actions[0]!, to: middle },
      { from: middle, to: actions.at(-1)! + 1 },
    ])
      await this.#sendChunk(client, limits, half, signal, refused)
  }
}
