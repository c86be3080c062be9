/**
 * Rows that are read from a table of MariaDB equal those that its log has of them, for every type; and a load beside the stream
 * under writers: without a way to wait for GTIDs, reads lock their rows for a moment.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { instanceSchema, type InstanceConfig } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'
import { commonSchema } from '../../src/sinks/runner/options.ts'
import { flavourOf, typesOf } from '../binlog/types.ts'
import { Random } from '../e2e/load.ts'
import { Memory, memoryType } from '../sinks/memory.ts'
import { Clock, different, Observer, openWorld, readWorld, Writer } from '../snapshot/world.ts'
import { readThroughSource } from '../matrix/source.ts'
import { privateMysql, type MysqlServer } from '../support/mysql.ts'
import { roundTrip } from './snapshot-rows.ts'

describe.each(['mariadb-10.11', 'mariadb-11.8'] as const)('a snapshot of %s', (version) => {
  let server: MysqlServer
  beforeAll(async () => {
    server = await privateMysql(version)
    await server.query('CREATE DATABASE snapshot')
  })
  afterAll(async () => await server[Symbol.asyncDispose]())

  it.each(['numbers', 'temporals', 'strings', 'documents', 'mariadb'])('%s', async (kind) => {
    const specs = typesOf(flavourOf(server.version))[kind]!
    const options = { alike: false, capture: readThroughSource }
    await roundTrip({ server, database: 'snapshot' }, specs, 60, options)
  })

  it('equals the source under writers, and no key goes back', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'sluice-snapshot-'))
    await openWorld(server, 'world.items', 3000)
    const memory = new Memory()
    const { host, port, user, password } = server
    const config = instanceSchema.parse({
      source: { host, port, user, password },
      filter: { include: 'world\\..*' },
    }) as InstanceConfig
    const sink = { ...commonSchema.parse({ initialLoad: 'ifEmpty' }), type: 'memory' }
    const instance = Instance.open({
      name: 'orders',
      config: { ...config, sinks: { mem: sink } },
      dataDir: dir,
      log: pino({ level: 'silent' }),
      sinkTypes: [memoryType(memory)],
    })
    const clock = new Clock()
    const writers = [0, 1, 2, 3].map((i) => {
      const ids = { from: i * 900, to: (i + 1) * 900 }
      return new Writer(server, 'world.items', { random: new Random(Date.now() + i), clock, ids })
    })
    instance.start()
    while (instance.snapshots.of('sink:mem')?.state !== 'done') await sleep(20)
    await sleep(100)
    await Promise.all(writers.map((w) => w.stop()))
    const source = await readWorld(server, 'world.items')
    const observe = (): Observer => {
      const observer = new Observer()
      for (const { op, key, values } of memory.rows) {
        if (op === 'delete') observer.gone(key.replace(/^(.*):(.*)$/, '$2/$1'))
        else observer.wrote(`${values['part']}/${values['k']}`, Number(values['n']))
      }
      return observer
    }
    for (let looks = 0; different(source, observe().rows) > 0 && looks < 300; looks++)
      await sleep(20)
    expect(different(source, observe().rows)).toBe(0)
    expect([observe().wentBack, source.size > 0, writers[0]!.writes > 0]).toEqual([0, true, true])
    await instance.stop()
    rmSync(dir, { recursive: true, force: true })
  })
})
