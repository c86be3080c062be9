/**
 * The servers that an instance may read from, in order, and which of them it reads from now. Decides when one is given up:
 * it could not be read for `failover.afterMs`, or refused, and the next one has not been tried since anything was read.
 * Pure but for certificate files; the instance asks, and says what happened.
 */
import type { InstanceConfig } from '../config/config.ts'
import { SluiceError, type ErrorCode } from '../errors.ts'
import type { ConnectOptions } from '../mysql/connection.ts'
import { connectOptions } from './connect.ts'

type SourceConfig = InstanceConfig['source']

export class Sources {
  readonly #all: readonly SourceConfig[]
  readonly #afterMs: number
  #at: number
  #downSince: number | undefined // ms
  #given = 0 // up since something was read
  readonly #tried = new Set<number>() // those given up since then
  /** How often the source was changed for another. */
  failovers = 0

  /** `last`: the name of the one that was read before a restart. */
  constructor(config: InstanceConfig, last: string | undefined) {
    const { source, standbys, failover } = config
    const others = standbys.map(({ tls, ...own }): SourceConfig => ({
      ...source,
      ...defined(own),
      tls: tls ? { ...tls, mode: tls.mode } : source.tls,
    }))
    this.#all = [source, ...others]
    this.#afterMs = failover.afterMs
    this.#at = Math.max(
      0,
      this.#all.findIndex((s) => nameOf(s) === last),
    )
  }

  get several(): boolean {
    return this.#all.length > 1
  }
  get current(): SourceConfig {
    return this.#all[this.#at]!
  }
  /** "host:port" of the current one. */
  get name(): string {
    return nameOf(this.current)
  }
  get connect(): ConnectOptions {
    return connectOptions(this.current)
  }

  /** Those that are not read now, in order. */
  get others(): readonly { readonly name: string; readonly connect: ConnectOptions }[] {
    const others = this.#all.filter((source) => source !== this.current)
    return others.map((source) => ({ name: nameOf(source), connect: connectOptions(source) }))
  }

  /** Something was read from the current one. */
  worked(): void {
    this.#downSince = undefined
    this.#given = 0
    this.#tried.clear()
  }
  /**
   * What is to be done after an error: 'wait' and try the current one, which may be another one now; try the 'next' one at
   * once, which is the current one now; or 'fail', for no source can help. `retryable`: trying the same again may help.
   * `rank`: of those that were not tried the lowest is the next, in their order where that is the same.
   */
  failed(
    now: number,
    error: unknown,
    retryable: boolean,
    rank: (name: string) => number = () => 0,
  ): 'wait' | 'next' | 'fail' {
    this.#downSince ??= now
    const otherwise = retryable ? 'wait' : 'fail'
    const code = error instanceof SluiceError ? error.code : undefined
    const away = awayCodes.has(code)
    if (!this.several || !(away || (elsewhereCodes.has(code) && !retryable))) return otherwise
    if (this.#given === 0 && away) {
      if (!retryable) return 'fail' // the account is wrong: nobody has been given up
      if (now - this.#downSince < this.#afterMs) return 'wait'
    }
    const tried = this.#given >= this.#all.length - 1
    if (tried && !away) return 'fail'
    this.#at = tried ? (this.#at + 1) % this.#all.length : this.#next(rank)
    if (tried) return 'wait'
    this.#given++
    this.failovers++
    return 'next'
  }
  #next(rank: (name: string) => number): number {
    this.#tried.add(this.#at)
    const count = this.#all.length
    const order = this.#all.map((_, i) => (this.#at + 1 + i) % count)
    const left = order.filter((i) => !this.#tried.has(i))
    const ranked = left.map((i) => ({ i, rank: rank(nameOf(this.#all[i]!)) }))
    return ranked.reduce((best, other) => (other.rank < best.rank ? other : best)).i
  }
}

/** The source cannot be read. */
const awayCodes = new Set<ErrorCode | undefined>([
  'CONNECT_FAILED',
  'QUERY_FAILED',
  'STREAM_ENDED',
  'STREAM_STALLED',
  'PACKET_MALFORMED',
  'SERVER_ERROR',
  'ACCESS_DENIED',
  'TLS_FAILED',
  'SOURCE_UNSUITABLE',
])
/** It can, but does not have what is needed: another one may. */
const elsewhereCodes = new Set<ErrorCode | undefined>([
  'POSITION_LOST',
  'SOURCE_DIVERGED',
  'SOURCE_CHANGED',
])

const nameOf = ({ host, port }: SourceConfig): string => `${host}:${port}`

/** Without keys that have no value. */
function defined<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}
