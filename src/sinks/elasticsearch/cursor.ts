/**
 * The position kept in the target: one document per sink in an index of its own, so that Sluice goes on there when its
 * local state is lost. Written when everything before it is in the target. Its version is a fencing number: who opens the
 * sink last has the highest, and the one before is told to stop. One that slept meanwhile may not open it again: a request that
 * timed out in its sleep would make it take over from the one that took over from it.
 */
import { randomUUID } from 'node:crypto'
import { comparePositions, formatPosition, type Position } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { positionFromJson, positionToJson } from '../../store/state.ts'
import type { SinkContext } from '../sink.ts'
import { reasonOf, type Client } from './client.ts'

const EVERY_MS = 1000
/** Who we are: this process. */
const self = randomUUID()
/** The documents that this process has claimed, by document and start of its instance. */
const ours = new Set<string>()

interface Stored {
  readonly instance: string
  readonly sink: string
  readonly server: string
  readonly epoch: number
  /** The version of the document. */
  readonly fence: number
  /** SinkContext.fence of who wrote it: higher when the local state is the one of then, or a later one. */
  readonly local: number
  /** The process; older versions did not write it. */
  readonly owner?: string
  readonly position: string // JSON, as in the local state
}

export class CursorDocument {
  /** Where to go on; undefined where the local position is as good. */
  readonly resume: Position | undefined
  readonly seen: { readonly epoch: number; readonly server: string } | undefined
  readonly #client: Client
  readonly #index: string
  readonly #context: SinkContext
  readonly #fence: number
  readonly #id: string
  #waiting: Position | undefined
  #at = 0
  private constructor(
    client: Client,
    index: string,
    { context, stored }: { readonly context: SinkContext; readonly stored: Stored | undefined },
  ) {
    this.#client = client
    this.#index = index
    this.#context = context
    this.#id = `${context.instance}/${context.sink}`
    this.#fence = Math.max(context.fence, (stored?.fence ?? 0) + 1)
    this.seen = stored && { epoch: stored.epoch, server: stored.server }
    this.resume = stored && better(stored, context, `${index}/${this.#id}`)
  }

  /**
   * Reads it and claims it. Throws SINK_UNAVAILABLE when somebody else claims it at the same moment, STATE_FENCED when this start
   * of the instance had it, and somebody else has opened the sink since.
   */
  static async open(client: Client, index: string, context: SinkContext): Promise<CursorDocument> {
    const { signal } = context
    const path = `/${encodeURIComponent(index)}`
    const keyword = { type: 'keyword' }
    const body = JSON.stringify({
      settings: { number_of_shards: 1 },
      mappings: {
        dynamic: false,
        properties: { instance: keyword, sink: keyword, server: keyword, epoch: { type: 'long' } },
      },
    })
    const made = await client.request('PUT', path, { body, signal, accept: [400] })
    if (made.status === 400 && !made.text.includes('resource_already_exists_exception')) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `index ${index} cannot be made: ${reasonOf(made.text)}`,
      )
    }
    const document = `${path}/_doc/${encodeURIComponent(`${context.instance}/${context.sink}`)}`
    const { status, text } = await client.request('GET', document, { signal, accept: [404] })
    const stored = status === 404 ? undefined : (JSON.parse(text) as { _source: Stored })._source
    const cursor = new CursorDocument(client, index, { context, stored })
    const key = `${client.nodes} ${index} ${cursor.#id} ${context.fence}`
    if (ours.has(key) && stored !== undefined && stored.owner !== self)
      throw cursor.#fenced(`found ${stored.fence} of another`)
    const claimed = await cursor.#put('external', cursor.resume ?? context.position, signal)
    if (claimed) {
      ours.add(key)
      return cursor
    }
    throw new SluiceError(
      'SINK_UNAVAILABLE',
      `the position in ${index}/${cursor.#id} was claimed by somebody else at the same moment`,
    )
  }

  /** Stores a position, at most once a second. Throws STATE_FENCED when somebody else has opened the sink. */
  async reached(position: Position): Promise<void> {
    this.#waiting = position
    if (Date.now() - this.#at >= EVERY_MS) await this.flush()
  }
  /** Stores what waits. */
  async flush(): Promise<void> {
    const position = this.#waiting
    if (position === undefined) return
    this.#waiting = undefined
    this.#at = Date.now()
    if (await this.#put('external_gte', position)) return
    throw this.#fenced(`expected our fencing number ${this.#fence} to be the highest`)
  }
  #fenced(how: string): SluiceError {
    const text = `${this.#index}/${this.#id}: another Sluice has opened this sink after us; ${how}`
    return new SluiceError('STATE_FENCED', text)
  }
  /** False when a higher version is there. */
  async #put(type: string, position: Position, signal?: AbortSignal): Promise<boolean> {
    const { instance, sink, server, epoch, fence: local } = this.#context
    const where = { instance, sink, server, epoch: Math.max(epoch, position.epoch) }
    const source: Stored = {
      ...where,
      fence: this.#fence,
      local,
      owner: self,
      position: positionToJson(position),
    }
    const { status } = await this.#client.request(
      'PUT',
      `/${encodeURIComponent(this.#index)}/_doc/${encodeURIComponent(this.#id)}`,
      {
        body: JSON.stringify(source),
        query: { version: String(this.#fence), version_type: type },
        signal,
        accept: [409],
      },
    )
    return status !== 409
  }
}

/** The stored position, unless the local state is intact and as far. */
function better(
  { epoch, local, position: text }: Stored,
  context: SinkContext,
  where: string,
): Position | undefined {
  const position = positionFromJson(text, where)
  // the source's history has moved on since, and the local state knows how
  if (epoch < context.epoch) return undefined
  const intact = context.fence > local && position.epoch === context.position.epoch
  if (intact && comparePositions(position, context.position) <= 0) return undefined
  context.log.info({ position: formatPosition(position), epoch }, `going on from ${where}`)
  return position
}
