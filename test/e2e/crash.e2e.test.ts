/**
 * Crashes with the real process under load: Sluice killed, MySQL killed, connections cut anywhere, the dump taken away by
 * another replica. A client that acks ends with exactly every change, in order; what comes twice was not confirmed, and
 * says so.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Connection } from '../../src/mysql/connection.ts'
import { State } from '../../src/store/state.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Proxy, type Rule } from '../support/proxy.ts'
import { fact, MIB, Random, scaled, seed, TEST_MS } from './load.ts'
import { Scenario } from './follow.ts'

const MEMORY_MB = 300
const pace = { pauseMs: 40 }

let mysql: MysqlServer
beforeAll(async () => {
  mysql = await privateMysql(versions[0]!)
})
afterAll(() => mysql[Symbol.asyncDispose]())

const scenario = (more: object = {}) => Scenario.start({ mysql, seed, pace, ...more })

test(
  'kill -9 at random moments loses, doubles and reorders nothing',
  async () => {
    await using s = await scenario()
    const kills = scaled(10, 300)
    await s.run(async () => {
      await s.follow()
      // another client of the same destination, with a place of its own, that never holds an ack back
      await s.follow({ clientId: 7, lag: 0, pipeline: 1, size: 64 })
      s.write()
      for (let i = 0; i < kills; i++) {
        // from just after its port answers to well in the middle
        await s.pass(0, s.random.chance(30) ? 50 : 1500)
        await s.restart()
      }
      await s.pass(500, 1000)
    })
    const breaks = s.followers.reduce((sum, f) => sum + f.breaks, 0)
    expect(breaks).toBeGreaterThan(0)
    expect(s.changes).toBeGreaterThan(500)
    expect(Math.max(...s.peaks)).toBeLessThan(MEMORY_MB)
    fact(`crash, Sluice killed ${kills} times: ${s.summary()}`)
    // what the followers acked at last is durable: nothing is left for them
    const late = await s.follow()
    await s.pass(300, 300)
    await late.stop()
    expect(late.batches).toBe(0)
  },
  TEST_MS,
)

test(
  'MySQL killed and restarted mid-stream: the stream goes on',
  async () => {
    await using s = await scenario()
    const kills = scaled(2, 30)
    await s.run(async () => {
      await s.follow()
      s.write()
      for (let i = 0; i < kills; i++) {
        await s.pass(300, 1500)
        await mysql.kill()
        await s.pass(0, 500)
        if (i % 2 === 1) await s.kill() // and Sluice comes back first, to a source that is away
        const back = i % 2 === 1 ? s.startSluice() : undefined
        await mysql.start()
        await back
      }
      await s.pass(500, 1000)
    })
    fact(`crash, MySQL killed ${kills} times: ${s.summary()}`)
  },
  TEST_MS,
)

test(
  'the connection to MySQL cut mid-event and mid-packet, and never answering again',
  async () => {
    await using proxy = await Proxy.start(mysql)
    await using s = await scenario({
      mysqlPort: proxy.port,
      source: { heartbeatMs: '200ms' },
    })
    const random = new Random(seed)
    const cuts = scaled(25, 500)
    let done = 0
    // How many bytes a connection may bring: a few get no further than the handshake, the rest ends in transactions.
    const draw = (): number => random.int(0, random.chance(20) ? 5_000 : 8 * MIB)
    let left = draw()
    const rule: Rule = (chunk) => {
      if (done >= cuts) return chunk
      left -= chunk.length
      if (left > 0) return chunk
      const cutAfter = chunk.length + left
      left = draw()
      done++
      return { cutAfter: Math.max(0, cutAfter) }
    }
    await s.run(async () => {
      const follower = await s.follow()
      s.write()
      proxy.rule = rule
      await s.wait(() => done >= cuts, 'for all cuts', 120_000)
      const { total } = follower
      await s.wait(() => follower.total > total + 500, 'for some more changes')
      // silence: the watchdog has to notice, or a query's time limit
      const from = s.sluice.log.length
      proxy.rule = () => 'hold'
      const given = (): boolean => s.sluice.log.slice(from).some((l) => l.includes('"retrying"'))
      await s.wait(given, 'for the watchdog', 90_000)
      proxy.rule = (chunk) => chunk
      await s.pass(300, 600)
    })
    fact(`crash, connection to MySQL cut ${cuts} times: ${s.summary()}`)
  },
  TEST_MS,
)

test(
  "the client's connection cut at random bytes, in both directions",
  async () => {
    await using s = await scenario()
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: s.port })
    const random = new Random(seed)
    const cuts = scaled(40, 1000)
    let done = 0
    let left = random.int(0, MIB)
    proxy.rule = (chunk) => {
      if (done >= cuts) return chunk
      left -= chunk.length
      if (left > 0) return chunk
      const cutAfter = Math.max(0, chunk.length + left)
      left = random.int(0, random.chance(30) ? 400 : MIB)
      done++
      return { cutAfter }
    }
    await s.run(async () => {
      // as a proxy cuts a handshake too, only the first connect must succeed at once
      const follower = await s.follow({ clientId: 7 })
      await s.follow({ port: proxy.port, retry: { delayMs: 5, delayMaxMs: 20 } })
      s.write()
      while (done < cuts) {
        await s.pass(10, 60)
        if (random.chance(20)) proxy.cut(random.chance(50))
      }
      expect(follower.breaks).toBe(0)
    })
    fact(`crash, client's connection cut ${cuts} times and more: ${s.summary()}`)
  },
  TEST_MS,
)

describe('a second replica with the same server id', () => {
  const serverId = 0x5115ce

  test(
    'another Sluice, with a uuid of its own',
    async () => {
      await using s = await scenario({ source: { serverId } })
      await using other = await scenario({ source: { serverId } })
      await s.run(async () => {
        await other.run(async () => {
          await s.follow()
          await other.follow()
          s.write()
          other.write()
          await s.pass(500, 1000)
          await other.restart()
          await s.pass(500, 1000)
          await s.restart()
          await s.pass(500, 1000)
        })
      })
    },
    TEST_MS,
  )

  test.each(['the same uuid', 'no uuid'])(
    'a bare dump with %s, again and again',
    async (uuid) => {
      await using s = await scenario({ source: { serverId } })
      const ends: string[] = []
      await s.run(async () => {
        await s.follow()
        s.write()
        for (let i = 0; i < scaled(3, 50); i++) {
          await s.pass(100, 500)
          const state = State.read(join(s.dir, 'data/load.sqlite'))
          const replicaUuid = uuid === 'no uuid' ? '' : state.values.get('replicaUuid')!
          ends.push(await bareDump(serverId, replicaUuid))
        }
        await s.pass(100, 500)
      })
      const clashes = s.sluice.log.filter((line) => line.includes('SERVER_ID_CLASH')).length
      if (uuid === 'the same uuid') {
        expect(clashes).toBeGreaterThan(0)
        // ours came back and ended the other one
        expect(ends.filter((end) => end === 'SERVER_ID_CLASH').length).toBeGreaterThan(0)
      }
      fact(`crash, dump taken by a replica with ${uuid}: ${clashes} clashes, ${s.summary()}`)
    },
    TEST_MS,
  )
})

/** Dumps under our server id for a while; returns the code of what ended it, '' when nothing did. */
async function bareDump(serverId: number, replicaUuid: string): Promise<string> {
  const { host, port, user, password } = mysql
  const tls = { mode: 'disabled' } as const
  const options = { host, port, user, password, tls, connectTimeoutMs: 10_000 }
  const abort = new AbortController()
  const connection = await Connection.open(options)
  const place = 'a bare dump'
  const [log] = await mysql.query<{ File: string }>(
    mysql.version.startsWith('8.0') ? 'SHOW MASTER STATUS' : 'SHOW BINARY LOG STATUS',
  )
  const stream = await connection.dump(
    {
      serverId,
      replicaUuid,
      heartbeatMs: 200,
      place,
      file: log!.File,
      offset: 4,
      gtids: undefined,
    },
    abort.signal,
  )
  const timer = sleep(1500).then(() => abort.abort())
  try {
    while (await stream.more()) while (stream.packets.next());
    return ''
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  } finally {
    abort.abort()
    connection.close()
    await timer
  }
}
