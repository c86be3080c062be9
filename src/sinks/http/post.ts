/**
 * One POST, and what its answer means: done, refused (this content will never be taken), later (trying again may help), or
 * misled (the address answers with a redirect). Connections are kept and counted; nothing is followed, and of an answer's
 * body only the beginning is kept, for a message. Knows nothing of rows.
 */
import { Agent as PlainAgent, request as plainRequest, type IncomingMessage } from 'node:http'
import { Agent as TlsAgent, request as tlsRequest } from 'node:https'
import { readFileSync } from 'node:fs'

export interface PosterOptions {
  readonly url: string
  readonly concurrency: number
  readonly timeoutMs: number
  readonly headers: Readonly<Record<string, string>>
  readonly tls: {
    readonly ca?: string | undefined
    readonly cert?: string | undefined
    readonly key?: string | undefined
  }
}
export type Answer = Meaning & {
  /** Whether the socket has taken all of the body: until then its memory is not to be used again. */
  readonly sent: boolean
}
type Meaning =
  | { readonly kind: 'done' }
  | { readonly kind: 'refused' | 'misled'; readonly message: string }
  | { readonly kind: 'later'; readonly message: string; readonly afterMs: number | undefined }

/** Statuses that say nothing about the content: the address, the credentials, or the moment. */
const LATER = new Set([401, 403, 404, 405, 407, 408, 410, 421, 423, 425, 426, 429])
const SHOWN_BYTES = 120
/** Of a longer answer the rest is not waited for. */
const ANSWER_BYTES = 64 * 1024

export class Poster {
  readonly #options: PosterOptions
  readonly #url: URL
  readonly #agent: PlainAgent | TlsAgent
  /** Where requests go, without what may be secret in it. */
  readonly place: string

  /** Throws what reading the certificate files throws. */
  constructor(options: PosterOptions) {
    this.#options = options
    this.#url = new URL(options.url)
    this.place = `${this.#url.origin}${this.#url.pathname}`
    const pool = { keepAlive: true, maxSockets: options.concurrency, scheduling: 'lifo' } as const
    const { ca, cert, key } = options.tls
    const read = (file: string | undefined): Buffer | undefined =>
      file === undefined ? undefined : readFileSync(file)
    this.#agent =
      this.#url.protocol === 'https:'
        ? new TlsAgent({ ...pool, ca: read(ca), cert: read(cert), key: read(key) })
        : new PlainAgent(pool)
  }

  /** Throws only the signal's reason. */
  async post(
    body: Buffer,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<Answer> {
    for (let attempt = 1; ; attempt++) {
      const outcome = await this.#once(body, headers, signal)
      if ('kind' in outcome) return outcome
      signal.throwIfAborted()
      // The receiver closed a kept connection just when it was taken up again.
      if (outcome.reused && attempt === 1) continue
      const message = this.#say(outcome.error.message)
      return { kind: 'later', message, afterMs: undefined, sent: false }
    }
  }
  close(): void {
    this.#agent.destroy()
  }

  #once(
    body: Buffer,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<Answer | { readonly error: Error; readonly reused: boolean }> {
    const { timeoutMs } = this.#options
    const send = this.#url.protocol === 'https:' ? tlsRequest : plainRequest
    const { promise, resolve } = Promise.withResolvers<
      Answer | { readonly error: Error; readonly reused: boolean }
    >()
    const request = send(this.#url, {
      method: 'POST',
      agent: this.#agent,
      signal,
      headers: { ...this.#options.headers, ...headers, 'content-length': body.length },
    })
    let timer: NodeJS.Timeout | undefined
    // Waiting for a free connection does not count.
    request.on('socket', () => {
      timer = setTimeout(() => {
        request.destroy(new Error(`no answer within ${timeoutMs} ms`))
      }, timeoutMs)
    })
    request.on('error', (error: NodeJS.ErrnoException) => {
      const broken = error.code === 'ECONNRESET' || error.code === 'EPIPE'
      resolve({ error, reused: request.reusedSocket && broken })
    })
    request.on('response', (response) => {
      void beginning(response).then((text) => {
        resolve({ ...this.#judge(response, text), sent: request.writableFinished })
      })
    })
    request.end(body)
    return promise.finally(() => clearTimeout(timer))
  }

  #judge(response: IncomingMessage, text: string): Meaning {
    const status = response.statusCode ?? 0
    if (status >= 200 && status < 300) return { kind: 'done' }
    const message = this.#say(`${status}${text === '' ? '' : `: ${text}`}`)
    if (status >= 300 && status < 400) return { kind: 'misled', message }
    if (status >= 400 && status < 500 && !LATER.has(status)) return { kind: 'refused', message }
    return { kind: 'later', message, afterMs: retryAfter(response.headers['retry-after']) }
  }
  #say(what: string): string {
    return `POST ${this.place}: expected an answer of 200 to 299, got ${what}`
  }
}

/** The beginning of an answer on one line. Resolves when the answer is over, however it ends. */
function beginning(response: IncomingMessage): Promise<string> {
  const kept: Buffer[] = []
  let size = 0
  const { promise, resolve } = Promise.withResolvers<string>()
  response.on('data', (chunk: Buffer) => {
    if (size < SHOWN_BYTES) kept.push(chunk.subarray(0, SHOWN_BYTES - size))
    size += chunk.length
    if (size > ANSWER_BYTES) response.destroy()
  })
  response.on('error', () => {
    // The status has come: that is the answer.
  })
  response.on('close', () => {
    if (kept.length === 0) return resolve('')
    const text = Buffer.concat(kept).toString()
    resolve(text.replace(/[\p{C}\s]+/gu, ' ').trim())
  })
  return promise
}

/** Seconds or a date; undefined for anything else. */
function retryAfter(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (/^\d{1,9}$/.test(text.trim())) return Number(text) * 1000
  const date = Date.parse(text)
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now())
}
