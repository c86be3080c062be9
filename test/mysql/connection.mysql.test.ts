import { createServer } from 'node:net'
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { Lookup } from '../../src/lookup.ts'
import { Connection, type ConnectOptions, type TlsOptions } from '../../src/mysql/connection.ts'
import { connectOptions } from '../sources/reading.ts'
import { privateMysql, sharedMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'

const fixture = (name: string): string =>
  new URL(`../fixtures/mysql-tls/${name}`, import.meta.url).pathname
const ca = readFileSync(fixture('ca.pem'))

/** What `open` throws, and that the password is not in it. */
async function failure(options: ConnectOptions): Promise<SluiceError> {
  try {
    const connection = await Connection.open(options)
    connection.close()
  } catch (error) {
    expect(error).toBeInstanceOf(SluiceError)
    if (options.password !== '')
      expect(JSON.stringify(error) + String(error)).not.toContain(options.password)
    return error as SluiceError
  }
  return expect.unreachable('the connection was made')
}

describe.each(versions)('MySQL %s', (version) => {
  let mysql: MysqlServer
  beforeAll(async () => {
    mysql = await sharedMysql(version)
  })
  afterAll(() => mysql[Symbol.asyncDispose]())

  test('queries give rows, and errors say what was asked', async () => {
    using connection = await Connection.open(connectOptions(mysql))
    expect(await connection.query('SELECT ? AS a, 9007199254740993 AS b', ["it's"])).toEqual([
      { a: "it's", b: '9007199254740993' },
    ])
    await expect(connection.query('SELECT nothing FROM nowhere')).rejects.toMatchObject({
      code: 'QUERY_FAILED',
      message: expect.stringContaining('SELECT nothing') as string,
    })
  })

  test('a wrong password is ACCESS_DENIED, for ever', async () => {
    const error = await failure({ ...connectOptions(mysql), password: 'not-the-password' })
    expect(error).toMatchObject({ code: 'ACCESS_DENIED', retryable: false })
  })

  test('without the right to replicate a dump is ACCESS_DENIED', async () => {
    const user = `nobody${Date.now()}`
    await mysql.query(`CREATE USER '${user}'@'%' IDENTIFIED BY 'x'`)
    using connection = await Connection.open({
      ...connectOptions(mysql),
      user,
      password: 'x',
      tls: { mode: 'preferred' },
    })
    const abort = new AbortController()
    const dump = connection.dump(
      {
        serverId: 99,
        replicaUuid: crypto.randomUUID(),
        heartbeatMs: 1000,
        place: 'the start',
        file: 'x',
        offset: 4,
        gtids: undefined,
      },
      abort.signal,
    )
    await expect(dump).rejects.toMatchObject({ code: 'ACCESS_DENIED' })
    await mysql.query(`DROP USER '${user}'`)
  })

  test.each(['disabled', 'preferred', 'required'] as const)('tls %s', async (mode) => {
    using connection = await Connection.open({ ...connectOptions(mysql), tls: { mode } })
    expect(connection.encrypted).toBe(mode !== 'disabled')
    const [row] = await connection.query<{ Value: string }>("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    expect(row?.Value !== '').toBe(mode !== 'disabled')
  })

  test('a password never seen before, with and without TLS', async () => {
    for (const mode of ['disabled', 'required'] as const) {
      const user = `fresh${mode}${Date.now()}`
      await mysql.query(
        `CREATE USER '${user}'@'%' IDENTIFIED WITH caching_sha2_password BY 'päss wörd'`,
      )
      for (let i = 0; i < 2; i++) {
        using connection = await Connection.open({
          ...connectOptions(mysql),
          user,
          password: 'päss wörd',
          tls: { mode },
        })
        expect(await connection.query('SELECT 1 AS one')).toEqual([{ one: 1 }])
      }
      await mysql.query(`DROP USER '${user}'`)
    }
  })
})

describe('an answer that is damaged on its way', () => {
  const open = async (): Promise<AsyncDisposable & { proxy: Proxy; connection: Connection }> => {
    await using stack = new AsyncDisposableStack()
    const mysql = stack.use(await sharedMysql(versions[0]!))
    const proxy = stack.use(await Proxy.start(mysql))
    const options = {
      ...connectOptions(mysql),
      port: proxy.port,
      tls: { mode: 'disabled' } as const,
    }
    const connection = stack.use(await Connection.open(options))
    const rest = stack.move()
    return { proxy, connection, [Symbol.asyncDispose]: () => rest.disposeAsync() }
  }

  test('has a wrong sequence number: the connection is over, and nothing is printed', async () => {
    await using opened = await open()
    const { proxy, connection } = opened
    const printed = vi.spyOn(console, 'error')
    proxy.rule = (chunk) => {
      const copy = Buffer.from(chunk)
      copy[3]! ^= 0x10
      return copy
    }
    const first = connection.query('SELECT 1 AS one')
    const second = connection.query('SELECT 2 AS two')
    await expect(first).rejects.toMatchObject({
      code: 'PACKET_MALFORMED',
      retryable: true,
      message: expect.stringContaining('got packets out of order') as string,
    })
    await expect(second).rejects.toMatchObject({ code: 'PACKET_MALFORMED' })
    expect(printed).not.toHaveBeenCalled()
    printed.mockRestore()
  })

  test('stops in the middle: the query fails soon, while one that thinks is waited for', async () => {
    await using opened = await open()
    const { proxy, connection } = opened
    await using mysql = await sharedMysql(versions[0]!)
    const thinks = async (mode: 'disabled' | 'required'): Promise<unknown> => {
      using other = await Connection.open({ ...connectOptions(mysql), tls: { mode } })
      const pair = [other.query('SELECT 1 AS one'), other.query('SELECT SLEEP(7) AS slept')]
      return (await Promise.all(pair)).flat()
    }
    const thinking = Promise.all([thinks('disabled'), thinks('required')])
    proxy.rule = (chunk) => chunk.subarray(0, chunk.length - 3)
    await expect(connection.query('SELECT 1 AS one')).rejects.toMatchObject({
      code: 'QUERY_FAILED',
      retryable: true,
      message: expect.stringMatching(
        /SELECT 1 AS one: the answer stopped after \d+ bytes/,
      ) as string,
    })
    const answers = [{ one: 1 }, { slept: 0 }]
    expect(await thinking).toEqual([answers, answers])
  })
})

// MySQL 9 has it no longer.
test.each(versions.filter((version) => version === '8.0'))(
  'mysql_native_password on MySQL %s',
  async (version) => {
    await using mysql = await sharedMysql(version)
    const user = `native${Date.now()}`
    await mysql.query(`CREATE USER '${user}'@'%' IDENTIFIED WITH mysql_native_password BY 'secret'`)
    using connection = await Connection.open({ ...connectOptions(mysql), user, password: 'secret' })
    expect(await connection.query('SELECT 1 AS one')).toEqual([{ one: 1 }])
    expect(
      await failure({ ...connectOptions(mysql), user, password: 'other-secret' }),
    ).toMatchObject({ code: 'ACCESS_DENIED' })
    await mysql.query(`DROP USER '${user}'`)
  },
)

describe.each(versions)('certificates of MySQL %s', (version) => {
  test('are verified as far as the mode says', async () => {
    for (const name of ['localhost', 'address']) {
      await using mysql = await privateMysql(version, {
        args: [
          `--ssl-ca=${fixture('ca.pem')}`,
          `--ssl-cert=${fixture(`${name}.pem`)}`,
          `--ssl-key=${fixture(`${name}.key.pem`)}`,
        ],
      })
      const open = async (host: string, tls: TlsOptions): Promise<boolean> => {
        using connection = await Connection.open({ ...connectOptions(mysql), host, tls })
        return connection.encrypted
      }
      expect(await open('127.0.0.1', { mode: 'required' })).toBe(true)
      expect(await open('127.0.0.1', { mode: 'verify-ca', ca })).toBe(true)
      await expect(open('127.0.0.1', { mode: 'verify-ca' })).rejects.toMatchObject({
        code: 'TLS_FAILED',
      })
      const [right, wrong] =
        name === 'localhost' ? ['localhost', '127.0.0.1'] : ['127.0.0.1', 'localhost']
      expect(await open(right!, { mode: 'verify-identity', ca })).toBe(true)
      await expect(open(wrong!, { mode: 'verify-identity', ca })).rejects.toMatchObject({
        code: 'TLS_FAILED',
      })
    }
  })

  test('a server without TLS: preferred goes without, required does not', async () => {
    await using mysql = await privateMysql(version, { args: ['--tls-version='] })
    const options = connectOptions(mysql)
    using connection = await Connection.open({ ...options, tls: { mode: 'preferred' } })
    expect(connection.encrypted).toBe(false)
    expect(await failure({ ...options, tls: { mode: 'required' } })).toMatchObject({
      code: 'TLS_FAILED',
    })
  })
})

describe('no server', () => {
  const options = {
    host: '127.0.0.1',
    port: 1,
    user: 'u',
    password: 'secret-pw',
    tls: { mode: 'preferred' },
    connectTimeoutMs: 300,
  } as const
  test('nobody listens', async () => {
    expect(await failure(options)).toMatchObject({ code: 'CONNECT_FAILED', retryable: true })
  })
  test.each(['silent', 'closing', 'talking'] as const)('somebody else who is %s', async (kind) => {
    const server = createServer((socket) => {
      socket.on('error', () => {})
      if (kind === 'closing') socket.end()
      if (kind === 'talking') socket.write('HTTP/1.1 400 Bad Request\r\n\r\n')
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    const port = address !== null && typeof address === 'object' ? address.port : 0
    expect(await failure({ ...options, port })).toMatchObject({ code: 'CONNECT_FAILED' })
    server.close()
  })
})

test('questions are asked again once the login that was refused is good, however often they were asked before', async () => {
  await using mysql = await privateMysql('9.7')
  await mysql.query("CREATE USER asker IDENTIFIED BY 'one' ACCOUNT LOCK")
  const lookup = new Lookup({ ...connectOptions(mysql), user: 'asker', password: 'one' })
  for (let i = 0; i < 3; i++)
    await expect(lookup.query('SELECT 1 AS one')).rejects.toMatchObject({ code: 'ACCESS_DENIED' })
  await mysql.query('ALTER USER asker ACCOUNT UNLOCK')
  expect(await lookup.query('SELECT 1 AS one')).toEqual([{ one: 1 }])
  lookup.close()
})
