/**
 * The position kept in the target: one document per sink in an index of its own, so that Sluice goes on there when its
 * local state is lost. It is written with the rows that come after the position, hence never ahead of what is there. Its
 * version is a fencing number: who opens the sink last has the highest, and the one before is told to stop.
 */
import { comparePositions, formatPosition, type Position } from '../../change.ts'
import { SluiceError } from '../../errors.ts'
import { positionFromJson, positionToJson } from '../../store/state.ts'
import { writeJsonString } from '../shape/json.ts'
import type { SinkBatch } from '../shape/batch.ts'
import { NO_VERSION } from '../shape/version.ts'
import type { SinkContext } from '../sink.ts'
import type { Bulk, Refused } from './bulk.ts'
import { reasonOf, type Client } from './client.ts'

/** The tag of its action in a bulk request. */
export const CURSOR = -1

interface Stored {
  readonly instance: string
  readonly sink: string
  readonly server: string
  readonly epoch: number
  readonly fence: number
  readonly position: string // JSON, as in the local state
  /** Versions of everything that was ever written are at most this. */
  readonly highest: string
}

export class CursorDocument {
  /** Where to go on, when that is further than the local position. */
  readonly resume: Position | undefined
  #highest: string
  readonly #index: string
  readonly #context: SinkContext
  readonly #fence: number
  readonly #id: string
  #last: string
  private constructor(index: string, context: SinkContext, stored: Stored | undefined) {
    this.#index = index
    this.#context = context
    this.#id = `${context.instance}/${context.sink}`
    this.#fence = Math.max(context.fence, (stored?.fence ?? 0) + 1)
    this.resume = stored && further(stored, context, `${index}/${this.#id}`)
    this.#last = positionToJson(this.resume ?? context.position)
    this.#highest = stored?.highest ?? NO_VERSION
  }
  /** The higher of the two: where the local state was lost, only the target knows what was written already. */
  highest(batch: string): string {
    return batch > this.#highest ? batch : this.#highest
  }

  /** Reads it and claims it. Throws SINK_UNAVAILABLE when somebody else claims it at the same moment. */
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
    const cursor = new CursorDocument(index, context, stored)
    const claim = await client.request('PUT', document, {
      body: cursor.#source(cursor.#last),
      query: { version: String(cursor.#fence), version_type: 'external' },
      signal,
      accept: [409],
    })
    if (claim.status !== 409) return cursor
    throw new SluiceError(
      'SINK_UNAVAILABLE',
      `the position in ${index}/${cursor.#id} was claimed by somebody else at the same moment`,
    )
  }
  #source(position: string): string {
    const { instance, sink, server, epoch } = this.#context
    const highest = this.#highest
    const source: Stored = { instance, sink, server, epoch, fence: this.#fence, position, highest }
    return JSON.stringify(source)
  }

  /** Adds the action that stores where a batch begins, unless that is there; returns what `written` wants. */
  write(bulk: Bulk, { start, highest }: SinkBatch): string {
    const text = positionToJson(start)
    if (text === this.#last && highest <= this.#highest) return text
    this.#highest = this.highest(highest)
    bulk.begin(CURSOR, { index: this.#index, id: this.#id, routing: undefined })
    const { out } = bulk
    out.utf8(`{"index":{"_index":${JSON.stringify(this.#index)},"_id":`)
    writeJsonString(this.#id, out)
    out.ascii(`,"version":${this.#fence},"version_type":"external_gte"}}\n`)
    out.utf8(this.#source(text))
    out.ascii('\n')
    bulk.end()
    return text
  }
  written(text: string): void {
    this.#last = text
  }
  /** Throws what it means that the position was refused. */
  refused({ status, reason }: Refused): never {
    if (status === 409) {
      throw new SluiceError(
        'STATE_FENCED',
        `${this.#index}/${this.#id}: another Sluice has opened this sink after us; expected our fencing number ${this.#fence} to be the highest`,
      )
    }
    throw new SluiceError(
      'SINK_UNAVAILABLE',
      `the position in ${this.#index}/${this.#id}: ${reason}`,
    )
  }
}

/** The stored position where it is further than ours. */
function further(
  { server, epoch, position: text }: Stored,
  context: SinkContext,
  where: string,
): Position | undefined {
  const position = positionFromJson(text, where)
  if (epoch < context.epoch) return undefined
  if (epoch === context.epoch && server !== context.server) {
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `${where}: expected a position of server ${context.server} in epoch ${epoch}, found one of server ${server}; its versions would not compare with ours: begin other indexes, or give back the local state`,
    )
  }
  if (
    position.epoch === context.position.epoch &&
    comparePositions(position, context.position) <= 0
  )
    return undefined
  context.log.info(
    { position: formatPosition(position), epoch: position.epoch },
    `going on from ${where}`,
  )
  return position
}
