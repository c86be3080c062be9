/**
 * A foreign Canal client as a process: one JSON command a line in, one JSON answer a line out, in order. The drivers are
 * canal_client.py and CanalClient.java.
 */
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

export interface ForeignChange {
  readonly kind: string
  readonly table: string
  readonly type?: string
  readonly sql?: string
  readonly rows?: readonly {
    readonly before: Readonly<Record<string, string | null>>
    readonly after: Readonly<Record<string, string | null>>
  }[]
}
export interface Answer {
  readonly error?: string
  readonly id?: number
  readonly changes?: readonly ForeignChange[]
}
export interface ForeignBatch {
  readonly id: number
  /** Those with rows. */
  readonly found: readonly ForeignChange[]
  readonly kinds: readonly string[]
}

const EMPTY = -1

export class Driver implements Disposable {
  readonly #child
  readonly #lines: AsyncIterator<string>
  #stderr = ''

  constructor(command: string, args: readonly string[]) {
    this.#child = spawn(command, [...args], { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child.on('error', (error) => (this.#stderr += String(error)))
    this.#child.stdin.on('error', () => {}) // the missing answer tells
    this.#child.stderr
      .setEncoding('utf8')
      .on('data', (text: string) => (this.#stderr = (this.#stderr + text).slice(-10_000)))
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  /** The driver's answer, an error of its client included. Throws when the driver ends instead. */
  async ask(command: object): Promise<Answer> {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`)
    const { done, value } = await this.#lines.next()
    if (done) throw new Error(`the driver ended at ${JSON.stringify(command)}:\n${this.#stderr}`)
    return JSON.parse(value) as Answer
  }
  /** The same, but an error of the client is thrown. */
  async ok(command: object): Promise<Answer> {
    const answer = await this.ask(command)
    if (answer.error !== undefined)
      throw new Error(`${JSON.stringify(command)} got the error: ${answer.error}`)
    return answer
  }
  /** Polls until a batch has rows, acking those without. `on` goes into every command. */
  async rows(on: object = {}): Promise<ForeignBatch> {
    for (;;) {
      const { id = EMPTY, changes = [] } = await this.ok({ ...on, op: 'get', size: 100 })
      const found = changes.filter((c) => c.rows && c.rows.length > 0)
      if (found.length > 0) return { id, found, kinds: changes.map((c) => c.kind) }
      if (id === EMPTY) await sleep(20)
      else await this.ok({ ...on, op: 'ack', id })
    }
  }
  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL')
  }
}
