/**
 * Clients that do not keep up, with MySQL writing at full speed: one that never acks, one that does not read its socket,
 * none at all. The process stays within its memory, everybody else goes on, and nothing is lost when they read on. The
 * source's net_write_timeout is so low that any dump which relied on it would be cut.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Link } from '../../src/client/link.ts'
import * as wire from '../../src/server/wire.ts'
import { privateMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Proxy } from '../support/proxy.ts'
import { Scenario } from './follow.ts'
import { fact, memoryOf, MIB, scaled, seed, TEST_MS } from './load.ts'

const MEMORY_MB = 300
/** Of a process with two destinations and a catch-up reader: two windows, and what malloc cannot give back. */
const MEMORY_OF_TWO_MB = 400
const WINDOW = 32 * MIB
const full = { large: 8 }

let mysql: MysqlServer
beforeAll(async () => {
  mysql = await privateMysql(versions[0]!)
  await mysql.query('SET GLOBAL net_write_timeout = 1')
})
afterAll(() => mysql[Symbol.asyncDispose]())

/** How much has been written to the binlog. */
async function binlogBytes(): Promise<number> {
  const files = await mysql.query<{ File_size: number | string }>('SHOW BINARY LOGS')
  return files.reduce((sum, { File_size: size }) => sum + Number(size), 0)
}
/** Lets the writers write at full speed until so many bytes are in the binlog. */
async function written(s: Scenario, bytes: number, limitMs = 90_000): Promise<void> {
  const from = await binlogBytes()
  for (const end = Date.now() + limitMs; (await binlogBytes()) - from < bytes;) {
    if (Date.now() > end) throw new Error('MySQL does not write: is it blocked?')
    await s.pass(100, 100)
  }
}

test(
  'a client that gets and never acks costs nobody anything, and has it all in the end',
  async () => {
    await using s = await Scenario.start({ mysql, seed, pace: full, other: true })
    const names = { destination: 'load', clientId: '777' }
    const link = await Link.open({
      host: '127.0.0.1',
      port: s.port,
      user: '',
      password: '',
      tls: undefined,
      connectTimeoutMs: 10_000,
      silenceMs: 60_000,
      replyBytesMax: 1024 * MIB,
    })
    let batches = 0
    const hoard = async (): Promise<void> => {
      await link.request(wire.packetTypes.SUBSCRIPTION, wire.writeSub({ ...names, filter: '' }))
      const get = { ...names, fetchSize: 200, timeout: 100, unit: 2, autoAck: false }
      while (link.open) {
        const reply = await link.request(wire.packetTypes.GET, wire.writeGet(get), 100)
        if (new wire.MessagesReader(reply.body).batchId > 0n) batches++
      }
    }
    await s.run(async () => {
      await s.follow()
      await s.follow({ destination: 'other' })
      let hoardEnd: unknown
      const hoarding = hoard().catch((error: unknown) => (hoardEnd = error))
      s.write()
      await written(s, scaled(250, 4000) * MIB)
      await s.stopWriting()
      // the others are served to the end while it still hoards
      await s.wait(() => s.followers.every(({ done }) => done), 'for the others')
      expect(memoryOf(s.pid).peak).toBeLessThan(MEMORY_OF_TWO_MB)
      await link.close()
      await hoarding
      expect(hoardEnd).toMatchObject({ code: 'CLIENT_CLOSED' })
      expect(batches).toBeGreaterThan(100)
      await s.follow({ clientId: 777 })
    })
    expect(Math.max(...s.peaks)).toBeLessThan(MEMORY_OF_TWO_MB)
    fact(`slow, ${batches} batches never acked: ${s.summary()}`)
  },
  TEST_MS,
)

test(
  'a client that does not read its socket for a while loses nothing',
  async () => {
    await using s = await Scenario.start({ mysql, seed, pace: full })
    await using proxy = await Proxy.start({ host: '127.0.0.1', port: s.port })
    const stallMs = scaled(5_000, 330_000)
    await s.run(async () => {
      const other = await s.follow({ clientId: 7 })
      const stalled = await s.follow({ port: proxy.port, pipeline: 24, silenceMs: Infinity })
      s.write()
      await written(s, 20 * MIB)
      proxy.stall(true)
      const begin = Date.now()
      const { total } = other
      await written(s, 3 * WINDOW)
      // a long silence has to be shorter on writing
      const writing = s.stopWriting()
      await sleep(Math.max(0, stallMs - (Date.now() - begin)))
      await writing
      expect(other.total).toBeGreaterThan(total)
      expect(stalled.done).toBe(false)
      expect(memoryOf(s.pid).peak).toBeLessThan(MEMORY_MB)
      proxy.stall(false)
    })
    expect(s.followers.map(({ breaks }) => breaks)).toEqual([0, 0])
    fact(`slow, socket not read for ${stallMs / 1000} s: ${s.summary()}`)
  },
  TEST_MS,
)

test(
  'an instance without any client holds MySQL back, and loses nothing',
  async () => {
    await using s = await Scenario.start({ mysql, seed, pace: full })
    await s.run(async () => {
      s.write()
      await written(s, 3 * WINDOW)
      await s.stopWriting()
      await sleep(scaled(4_000, 330_000))
      expect(memoryOf(s.pid).peak).toBeLessThan(MEMORY_MB)
      await s.follow()
    })
    // the dump that stood still is the one that goes on
    expect(s.sluice.log.filter((line) => line.includes('retrying'))).toEqual([])
    expect(Math.max(...s.peaks)).toBeLessThan(MEMORY_MB)
    fact(`slow, no client: ${s.summary()}`)
  },
  TEST_MS,
)
