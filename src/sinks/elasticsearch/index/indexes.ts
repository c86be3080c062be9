/**
 * The indexes that documents go to. What applications search is an alias; the index behind it is one generation of it
 * ("orders" → "orders-v1"). A new generation is made with the mappings of now, filled from the one before, and takes over
 * the alias in one step. With generation 0 the name is the index itself, and nothing stands before it.
 */
import { SluiceError } from '../../../errors.ts'
import type { Logger } from '../../../logger.ts'
import type { Client } from '../client.ts'
import { reasonOf } from '../client.ts'
import {
  differentFields,
  liveOnly,
  META,
  metaMapping,
  missingFields,
  withoutType,
  type Fields,
  type Mapping,
} from './mapping.ts'

export interface IndexOptions {
  readonly generation: number
  readonly settings: Readonly<Record<string, unknown>>
  /** More and other fields, by name: they win over what is derived. */
  readonly fields: Readonly<Record<string, Mapping>>
  readonly keepDeletedMs: number
}
/** An index in use. */
export interface TargetIndex {
  readonly name: string // what applications know it by
  readonly concrete: string // what is written to
}
/** Copies documents with their versions from an index to another. */
export type Copy = (from: string, to: string, signal: AbortSignal) => Promise<number>

export class Indexes {
  readonly #client: Client
  readonly #options: IndexOptions
  readonly #log: Logger
  readonly #copy: Copy
  readonly #known = new Map<string, TargetIndex>()
  #unknownTypes: string[] = []

  constructor(client: Client, options: IndexOptions, log: Logger, copy: Copy) {
    this.#client = client
    this.#options = options
    this.#log = log
    this.#copy = copy
  }
  /** Those that this process has written to. */
  get known(): Iterable<TargetIndex> {
    return this.#known.values()
  }
  concrete(name: string): string {
    const { generation } = this.#options
    return generation === 0 ? name : `${name}-v${generation}`
  }

  /**
   * Makes sure that the index is there, has these fields and is the one behind its alias. Throws SINK_UNSUITABLE when
   * something else has its name, or when the server does not take the mapping.
   */
  async ensure(name: string, derived: Fields, signal: AbortSignal): Promise<TargetIndex> {
    const fields = this.#fields(derived)
    const index = { name, concrete: this.concrete(name) }
    const path = `/${encodeURIComponent(index.concrete)}`
    const { status, text } = await this.#client.request('GET', `${path}/_mapping`, {
      signal,
      accept: [404],
    })
    if (status === 404) await this.#create(index, fields, signal)
    else await this.#extend(index, fields, text, signal)
    if (!this.#known.has(name) && this.#options.generation > 0) await this.#alias(index, signal)
    this.#known.set(name, index)
    return index
  }
  #fields(derived: Fields): Fields {
    const own: Fields = { ...derived, ...this.#options.fields, [META]: metaMapping }
    return this.#unknownTypes.reduce(withoutType, own)
  }

  async #create(index: TargetIndex, fields: Fields, signal: AbortSignal): Promise<void> {
    const { settings, keepDeletedMs } = this.#options
    const body = JSON.stringify({
      settings: { 'index.gc_deletes': `${keepDeletedMs}ms`, ...settings },
      mappings: { properties: fields },
    })
    const path = `/${encodeURIComponent(index.concrete)}`
    const { status, text } = await this.#client.request('PUT', path, {
      body,
      signal,
      accept: [400],
    })
    if (status < 400 || text.includes('resource_already_exists_exception')) return
    const type = this.#learn(text)
    if (type === undefined) {
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `index ${index.concrete} cannot be made: ${reasonOf(text)}`,
      )
    }
    await this.#create(index, withoutType(fields, type), signal)
  }
  /** The type that the server does not know, where there is something else to say. */
  #learn(answer: string): string | undefined {
    const type = /(?:handler for|mapper) type \[(\w+)\]/.exec(answer)?.[1]
    if (type === undefined || this.#unknownTypes.includes(type)) return undefined
    if (type !== 'unsigned_long') return undefined
    this.#log.warn({ type }, 'the server does not know this type of field: keyword instead')
    this.#unknownTypes.push(type)
    return type
  }

  async #extend(
    index: TargetIndex,
    fields: Fields,
    text: string,
    signal: AbortSignal,
  ): Promise<void> {
    const mappings = JSON.parse(text) as Record<string, { mappings: { properties?: Fields } }>
    const there = mappings[index.concrete]?.mappings.properties ?? {}
    const different = differentFields(fields, there)
    if (different.length > 0) {
      this.#log.warn(
        { index: index.concrete, fields: different },
        'fields have another type than the table now asks for; raise `generation` to index them anew',
      )
    }
    const missing = missingFields(fields, there)
    if (Object.keys(missing).length === 0) return
    const { status, text: answer } = await this.#client.request(
      'PUT',
      `/${encodeURIComponent(index.concrete)}/_mapping`,
      { body: JSON.stringify({ properties: missing }), signal, accept: [400] },
    )
    if (status < 400) return
    const type = this.#learn(answer)
    if (type !== undefined) return this.#extend(index, withoutType(fields, type), text, signal)
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `index ${index.concrete} does not take the fields ${Object.keys(missing).join(', ')}: ${reasonOf(answer)}`,
    )
  }

  async #alias({ name, concrete }: TargetIndex, signal: AbortSignal): Promise<void> {
    const behind = await this.#behind(name, signal)
    const older = behind.filter((index) => index !== concrete)
    const generation = (index: string): number =>
      index.startsWith(`${name}-v`) ? Number(index.slice(name.length + 2)) : Number.NaN
    for (const index of older) {
      if (generation(index) < this.#options.generation) continue
      throw new SluiceError(
        'SINK_UNSUITABLE',
        `alias ${name}: expected ${name}-v${this.#options.generation} or an older generation behind it, found ${index}`,
      )
    }
    for (const index of older) {
      this.#log.info({ alias: name, from: index, to: concrete }, 'filling a new generation')
      const documents = await this.#copy(index, concrete, signal)
      this.#log.info({ alias: name, to: concrete, documents }, 'the new generation is filled')
    }
    const actions = [
      { add: { index: concrete, alias: name, filter: liveOnly } },
      ...older.map((index) => ({ remove: { index, alias: name } })),
    ]
    await this.#client.request('POST', '/_aliases', { body: JSON.stringify({ actions }), signal })
  }
  /** The indexes behind an alias. */
  async #behind(name: string, signal: AbortSignal): Promise<string[]> {
    const path = encodeURIComponent(name)
    const { status, text } = await this.#client.request('GET', `/_alias/${path}`, {
      signal,
      accept: [404],
    })
    if (status !== 404) return Object.keys(JSON.parse(text) as object)
    const index = await this.#client.request('GET', `/${path}`, { signal, accept: [404] })
    if (index.status === 404) return []
    throw new SluiceError(
      'SINK_UNSUITABLE',
      `expected ${name} to be free for an alias, found an index of that name; choose another \`index\`, or write straight into it with generation: 0`,
    )
  }
}
