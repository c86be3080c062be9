/** A real Sluice with its admin port on a real MySQL: asks it over HTTP, and waits for what it says. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { request, type IncomingHttpHeaders } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type SluiceClient } from '../../src/client.ts'
import type { InstanceView } from '../../src/web/api/views.ts'
import { stringify } from 'yaml'
import { uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { startSluice, type SluiceProcess } from '../support/sluice.ts'

export const OPERATOR = 'operator-token-of-this-test'
export const READER = 'reader-token-of-this-test'
export const PASSWORD = 'a password of this test'
export const accounts = {
  robot: { role: 'operator', token: OPERATOR },
  grafana: { role: 'readOnly', token: READER },
  alice: { role: 'operator', password: PASSWORD },
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly json: unknown
}
export interface Ask {
  readonly method?: string
  readonly token?: string | undefined
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: unknown // sent as JSON; a string as it is
}

export class AdminRig implements AsyncDisposable {
  readonly dir: string
  readonly database: string
  readonly sluice: SluiceProcess
  readonly port: number
  readonly mysql: MysqlServer
  readonly #clients: SluiceClient[] = []

  private constructor(
    mysql: MysqlServer,
    about: { dir: string; database: string; sluice: SluiceProcess; port: number },
  ) {
    this.mysql = mysql
    this.dir = about.dir
    this.database = about.database
    this.sluice = about.sluice
    this.port = about.port
  }
  /** One destination `orders` over a database of its own with a table `items`, running. */
  static async start(
    mysql: MysqlServer,
    { admin = {}, instance = {} }: { readonly admin?: object; readonly instance?: object } = {},
  ): Promise<AdminRig> {
    const dir = mkdtempSync(join(tmpdir(), 'sluice-admin-'))
    const database = uniqueDatabase('admin')
    await mysql.query(`CREATE DATABASE ${database}`)
    await mysql.query(`CREATE TABLE ${database}.items (id INT PRIMARY KEY, v VARCHAR(2000))`)
    const { host, port, user, password } = mysql
    const orders = {
      source: { host, port, user, password, heartbeatMs: '200ms', connectTimeoutMs: '1s' },
      filter: { include: `${database}\\..*` },
      retry: { minMs: '50ms', maxMs: '200ms' },
      ...instance,
    }
    const sluice = await startSluice({
      dir,
      instances: { orders },
      server: { admin: { port: 0, accounts, ...admin } },
    })
    const line = await sluice.logged('serving metrics, health and the API')
    const rig = new AdminRig(mysql, {
      dir,
      database,
      sluice,
      port: (JSON.parse(line) as { port: number }).port,
    })
    await sluice.logged('instance orders running')
    return rig
  }

  /** With the operator's token, unless another or none is given. */
  ask(path: string, { method = 'GET', token, headers = {}, body }: Ask = {}): Promise<Answer> {
    const bearer = token ?? OPERATOR
    const sent =
      body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body)
    const all = {
      ...(bearer !== '' && { authorization: `Bearer ${bearer}` }),
      ...(method !== 'GET' && { 'content-type': 'application/json' }),
      ...headers,
    }
    return new Promise((resolve, reject) => {
      const outgoing = request(
        { host: '127.0.0.1', port: this.port, path, method, headers: all },
        (incoming) => {
          let text = ''
          incoming.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
          incoming.on('error', reject)
          incoming.on('end', () => {
            const json = incoming.headers['content-type']?.startsWith('application/json')
            resolve({
              status: incoming.statusCode!,
              headers: incoming.headers,
              text,
              json: json ? JSON.parse(text) : undefined,
            })
          })
        },
      )
      outgoing.on('error', reject)
      outgoing.end(sent)
    })
  }
  /** The answer of the API; throws when it is not 200. */
  async api<T>(path: string, ask: Ask = {}): Promise<T> {
    const { status, text, json } = await this.ask(`/api/v1${path}`, ask)
    if (status !== 200) throw new Error(`${ask.method ?? 'GET'} ${path}: ${status} ${text}`)
    return json as T
  }
  act<T = { done: true }>(method: string, path: string, body?: unknown): Promise<T> {
    return this.api<T>(path, { method, body })
  }
  instance(): Promise<InstanceView> {
    return this.api('/instances/orders')
  }
  /** Until `look` answers something; the test's own time limit ends it. */
  async until<T>(look: () => Promise<T | undefined | false>): Promise<T> {
    for (;;) {
      const found = await look()
      if (found !== undefined && found !== false) return found
      await sleep(50)
    }
  }
  /** Until the instance looks like that; it is returned. */
  async when(fits: (view: InstanceView) => boolean): Promise<InstanceView> {
    return await this.until(async () => {
      const view = await this.instance()
      return fits(view) && view
    })
  }
  /** Another instance file, which the server finds. */
  writeInstance(name: string, content: object): void {
    writeFileSync(join(this.dir, 'instances', `${name}.yaml`), stringify(content))
  }
  removeInstance(name: string): void {
    rmSync(join(this.dir, 'instances', `${name}.yaml`))
  }
  insert(id: number, v = 'x'): Promise<unknown> {
    return this.mysql.query(`INSERT INTO ${this.database}.items VALUES (?, ?)`, [id, v])
  }
  async client(clientId = 1001): Promise<SluiceClient> {
    const client = await connect({ port: this.sluice.port, destination: 'orders', clientId })
    this.#clients.push(client)
    return client
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close().catch(() => {})))
    await this.sluice.stop()
    await this.mysql.query(`DROP DATABASE IF EXISTS ${this.database}`).catch(() => {})
    rmSync(this.dir, { recursive: true, force: true })
  }
}
