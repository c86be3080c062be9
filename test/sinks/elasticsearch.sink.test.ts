/** The Elasticsearch sink on a real Elasticsearch and a real OpenSearch: rows as documents. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseExact } from '../../src/sinks/elasticsearch/client.ts'
import type { RowFailure } from '../../src/sinks/sink.ts'
import * as types from '../binlog/types.ts'
import type { TypeSpec } from '../binlog/types.ts'
import { hasService, privateService, sharedService, type Service } from '../support/services.ts'
import {
  ask,
  codeOf,
  codes,
  documents,
  Feed,
  noSignal,
  openSink,
  shown,
  stored,
  writeAll,
} from './elastic.ts'

const names = (['elasticsearch', 'opensearch'] as const).filter(hasService)

describe.each(names)('%s', (name) => {
  let service: Service
  let feed: Feed
  beforeAll(async () => {
    service = sharedService(name)
    feed = await Feed.open()
  })
  afterAll(async () => {
    await feed[Symbol.asyncDispose]()
  })
  const alias = (table: string): string => `${feed.database}-${table}`.toLowerCase()

  describe('values', () => {
    const groups: [string, readonly TypeSpec[]][] = [
      ['numbers', types.numbers],
      ['dates and times', types.temporals],
      ['strings, enums and sets', types.strings],
      ['JSON and geometry', types.documents],
    ]
    it.each(groups)('%s are exact', async (group, specs) => {
      const table = group.replaceAll(/\W/g, '').toLowerCase()
      const rows = fc.sample(
        fc.tuple(...specs.map((s) => fc.option(s.values, { nil: 'NULL' }))),
        60,
      )
      const columns = specs.map((s, i) => `c${i} ${s.sql}`)
      const tuples = rows.map((row, i) => `(${[i, ...row].join(', ')})`)
      const logged = await feed.run(
        `SET sql_mode = 'ALLOW_INVALID_DATES'; CREATE TABLE ${table} (id INT PRIMARY KEY, ${columns.join(', ')});
         INSERT INTO ${table} VALUES ${tuples.join(', ')}`,
      )
      const sink = await openSink(service, feed)
      await writeAll(sink, feed.batch(logged))
      await sink.close()
      const there = await shown(service, alias(table))
      const selected = await feed.select<Record<string, string | null>>(
        `SELECT id, ${specs.map((s, i) => `${s.select(`c${i}`)} AS c${i}`).join(', ')} FROM ${table}`,
      )
      expect(Object.keys(there)).toHaveLength(60)
      for (const row of selected) {
        for (const [i, spec] of specs.entries()) {
          const [ours, theirs] = [there[String(row['id'])]![`c${i}`], row[`c${i}`]!]
          const where = `${spec.sql}: ${rows[Number(row['id'])]![i]}`
          if (theirs === null) expect(ours, where).toBeNull()
          else if (spec.sql === 'FLOAT')
            expect(Math.fround(number(ours)), where).toBe(Number(spec.read!(theirs)))
          else if (spec.sql === 'DOUBLE')
            expect(number(ours), where).toBe(Number(spec.read!(theirs)))
          else expect(text(ours, spec, theirs), where).toBe(spec.read?.(theirs) ?? theirs)
        }
      }
    })
  })

  it('has whole documents where JSON is logged in pieces beside its before image', async () => {
    const first = await feed.run(
      `CREATE TABLE j (id INT PRIMARY KEY, v JSON, w INT); INSERT INTO j VALUES (1,'{"a": 1, "b": "some text that stays"}',1)`,
    )
    const second = await feed.run(
      `SET binlog_row_value_options = PARTIAL_JSON; UPDATE j SET v = JSON_SET(v, '$.a', 2) WHERE id = 1`,
    )
    const sink = await openSink(service, feed)
    await writeAll(sink, feed.batch(first))
    await writeAll(sink, feed.batch(second))
    const v = { a: 2, b: 'some text that stays' }
    expect(await shown(service, alias('j'))).toEqual({ 1: { id: 1, v, w: 1 } })
    await sink.close()
  })

  describe('fences', () => {
    it('keep what is newer when the log is replayed', async () => {
      const first = await feed.run(
        'CREATE TABLE f (id INT PRIMARY KEY, v INT); INSERT INTO f VALUES (1,1),(2,1),(3,1)',
      )
      const second = await feed.run('UPDATE f SET v = 2; DELETE FROM f WHERE id = 3')
      const sink = await openSink(service, feed)
      const highest = feed.batch(second).highest
      await writeAll(sink, feed.batch(first))
      await writeAll(sink, feed.batch(second))
      const expected = { 1: { id: 1, v: 2 }, 2: { id: 2, v: 2 } }
      expect(await shown(service, alias('f'))).toEqual(expected)
      await writeAll(sink, feed.batch(first, { highest }))
      expect(await shown(service, alias('f'))).toEqual(expected)
      await sink.close()
    })
    it('let the last change of a transaction win, in one batch and in several', async () => {
      const logged = await feed.run(
        `CREATE TABLE g (id INT PRIMARY KEY, v INT); BEGIN; INSERT INTO g VALUES (1,1),(2,1); UPDATE g SET v = 2 WHERE id = 1;
         DELETE FROM g WHERE id = 2; INSERT INTO g VALUES (2,7); UPDATE g SET v = 3 WHERE id = 1;
         UPDATE g SET id = 5 WHERE id = 2; INSERT INTO g VALUES (2,9); COMMIT`,
      )
      const sink = await openSink(service, feed)
      const batch = feed.batch(logged)
      const expected = { 1: { id: 1, v: 3 }, 2: { id: 2, v: 9 }, 5: { id: 5, v: 7 } }
      await writeAll(sink, batch)
      expect(await shown(service, alias('g'))).toEqual(expected)
      for (let i = 0; i < 8; i++) await writeAll(sink, batch.slice(i, i + 1))
      expect(await shown(service, alias('g'))).toEqual(expected)
      await sink.close()
    })
    it('move a row to another document when its key changes, in any order', async () => {
      const logged = await feed.run(
        `CREATE TABLE m (id INT PRIMARY KEY, v INT); INSERT INTO m VALUES (1,1),(2,2),(3,3);
         UPDATE m SET id = id + 10; UPDATE m SET id = id + 1 ORDER BY id DESC`,
      )
      const sink = await openSink(service, feed)
      await writeAll(sink, feed.batch(logged))
      await writeAll(sink, feed.batch(logged))
      expect(await shown(service, alias('m'))).toEqual({
        12: { id: 12, v: 1 },
        13: { id: 13, v: 2 },
        14: { id: 14, v: 3 },
      })
      await sink.close()
    })
    it('stop with TARGET_AHEAD when what is there is newer than anything of this sink', async () => {
      const first = await feed.run('CREATE TABLE a (id INT PRIMARY KEY); INSERT INTO a VALUES (1)')
      const second = await feed.run('DELETE FROM a; INSERT INTO a VALUES (1)')
      const sink = await openSink(service, feed)
      await writeAll(sink, feed.batch(second))
      const other = await openSink(service, feed, {}, { sink: 'other' })
      expect(await codeOf(other.write(feed.batch(first), noSignal))).toBe('TARGET_AHEAD')
      await Promise.all([sink.close(), other.close()])
    })
    it('do not bring a deleted document back, and old tombstones go', async () => {
      const first = await feed.run(
        'CREATE TABLE d (id INT PRIMARY KEY, v INT); INSERT INTO d VALUES (1,1),(2,1)',
      )
      const second = await feed.run('DELETE FROM d WHERE id = 1')
      const { highest } = feed.batch(second)
      for (const deletes of ['tombstone', 'remove']) {
        const index = `${feed.database}-d-${deletes}`
        const sink = await openSink(service, feed, { deletes, index })
        await writeAll(sink, feed.batch(first))
        await writeAll(sink, feed.batch(second))
        await writeAll(sink, feed.batch(first, { highest }))
        expect(await shown(service, index), deletes).toEqual({ 2: { id: 2, v: 1 } })
        await sink.purge(noSignal)
        const left = await stored(service, `${index}-v1`, '1')
        expect(left === undefined).toBe(deletes === 'remove')
        await sink.close()
      }
      const index = `${feed.database}-d-tombstone`
      await ask(service, 'PUT', `/${index}-v1/_doc/old`, { sluice: { deleted: 1000 } })
      const sink = await openSink(service, feed, { index })
      await writeAll(sink, feed.batch(first, { highest }))
      await sink.purge(noSignal)
      expect(await stored(service, `${index}-v1`, 'old')).toBeUndefined()
      expect(await stored(service, `${index}-v1`, '1')).toBeDefined()
      await sink.close()
    })
  })

  describe('refusals', () => {
    it('are of their own row: data', async () => {
      const logged = await feed.run(
        `CREATE TABLE r (id VARCHAR(700) PRIMARY KEY, v VARCHAR(20));
         INSERT INTO r VALUES ('a','1'),('b','no number'),('c','3'),('${'x'.repeat(600)}','4'),('','5')`,
      )
      const sink = await openSink(service, feed, { fields: { v: { type: 'long' } } })
      const failures = await sink.write(feed.batch(logged), noSignal)
      // 3 and 4 are not even sent
      expect(codes(failures)).toEqual([
        [3, 'SINK_DATA', false],
        [4, 'SINK_DATA', false],
        [1, 'SINK_DATA', false],
      ])
      expect(failures.map((f) => f.error.message).join()).toMatch(/failed to parse field \[v\]/)
      expect(Object.keys(await shown(service, alias('r')))).toEqual(['a', 'c'])
      await sink.close()
    })
    it('are of their own row: an index that takes no writes for now', async () => {
      const logged = await feed.run(
        `CREATE TABLE open (id INT PRIMARY KEY); CREATE TABLE full (id INT PRIMARY KEY);
         INSERT INTO open VALUES (1); INSERT INTO full VALUES (1)`,
      )
      const sink = await openSink(service, feed)
      await writeAll(sink, feed.batch(logged))
      const block = (value: boolean | null) =>
        ask(service, 'PUT', `/${alias('full')}-v1/_settings`, {
          'index.blocks.read_only_allow_delete': value,
        })
      await block(true)
      const failures = await sink.write(feed.batch(logged), noSignal)
      expect(codes(failures)).toEqual([[1, 'SINK_UNAVAILABLE', true]])
      await block(null)
      await writeAll(sink, feed.batch(logged))
      await sink.close()
    })
  })

  it('bears a server with little room, killed and restarted', async () => {
    await using server = await privateService(name, {
      settings: { 'http.max_content_length': '250kb', 'indexing_pressure.memory.limit': '200kb' },
    })
    const sink = await openSink(server, feed, { bulkActions: 100, timeoutMs: 20_000 })
    const big = await feed.run(
      `CREATE TABLE big (id INT PRIMARY KEY, v MEDIUMTEXT);
       INSERT INTO big VALUES (1,REPEAT('a',20000)),(2,REPEAT('b',20000)),(3,REPEAT('c',20000)),(4,REPEAT('d',300000)),(5,'e')`,
    )
    // a request that is too large goes in pieces, a document that is too large is refused
    expect(codes(await sink.write(feed.batch(big), noSignal))).toEqual([[3, 'SINK_DATA', false]])
    expect(Object.keys(await shown(server, alias('big')))).toEqual(['1', '2', '3', '5'])
    // 429: too much for now
    const much = await feed.run("INSERT INTO big VALUES (6,REPEAT('a',230000))")
    const refused = sink.write(feed.batch(much), noSignal).then((failures) => {
      for (const { error, retryable } of failures) if (retryable) throw error
    })
    expect(await codeOf(refused)).toBe('SINK_UNAVAILABLE')

    const first = await feed.run(
      `CREATE TABLE k (id INT PRIMARY KEY, v INT); INSERT INTO k SELECT n, 1 FROM (WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 900) SELECT n FROM s) x`,
    )
    const second = await feed.run('UPDATE k SET v = 2; DELETE FROM k WHERE id <= 100')
    const { highest } = feed.batch(second)
    const until = async (logged: typeof first): Promise<void> => {
      const write = (): Promise<string> =>
        codeOf(sink.write(feed.batch(logged, { highest }), noSignal).then(nothing))
      await expect.poll(write, { timeout: 60_000 }).toBe('none')
    }
    await until(first)
    const writing = codeOf(sink.write(feed.batch(second), noSignal))
    await server.kill()
    expect(['none', 'SINK_UNAVAILABLE']).toContain(await writing)
    expect(await codeOf(sink.write(feed.batch(second), noSignal))).toBe('SINK_UNAVAILABLE')
    await server.start()
    await until(second)
    // a node that stops forgets what it deleted, whatever gc_deletes says
    await server.stop()
    await server.start()
    await until(first)
    const there = await shown(server, alias('k'))
    expect(Object.keys(there)).toHaveLength(800)
    expect(Object.values(there).every((source) => source['v'] === 2)).toBe(true)
    await sink.close()
  }, 600_000)

  it('empties an index at TRUNCATE, fenced like a row', async () => {
    const first = await feed.run(
      'CREATE TABLE t (id INT PRIMARY KEY, v INT); INSERT INTO t VALUES (1,1),(2,1)',
    )
    const truncated = await feed.run('TRUNCATE TABLE t')
    const after = await feed.run('INSERT INTO t VALUES (2,2)')
    const { highest } = feed.batch(after)
    const statement = feed.statements(truncated)[0]!
    for (const deletes of ['tombstone', 'remove']) {
      const index = `{database}-{table}-${deletes}`
      const sink = await openSink(service, feed, { deletes, index })
      const there = (): Promise<unknown> => shown(service, `${alias('t')}-${deletes}`)
      await writeAll(sink, feed.batch(first))
      await sink.statement(statement, noSignal)
      expect(await there()).toEqual({})
      await writeAll(sink, feed.batch(after))
      await writeAll(sink, feed.batch(first, { highest }))
      await sink.statement(statement, noSignal)
      expect(await there()).toEqual({ 2: { id: 2, v: 2 } })
      await sink.close()
    }
    const sink = await openSink(service, feed, { index: `${feed.database}-all` })
    expect(await codeOf(sink.statement(statement, noSignal))).toBe('UNLOGGED_CHANGE')
    await sink.close()
  })

  describe('indexes', () => {
    const mappingOf = async (index: string): Promise<Record<string, unknown>> => {
      const all = await ask<Record<string, { mappings: { properties: object } }>>(
        service,
        'GET',
        `/${index}/_mapping`,
      )
      return { ...Object.values(all)[0]!.mappings.properties }
    }
    it('have mappings that follow the table', async () => {
      const first = await feed.run(
        `CREATE TABLE x (id BIGINT UNSIGNED PRIMARY KEY, a TINYINT(1), b SMALLINT UNSIGNED, c INT UNSIGNED, d DECIMAL(10,2), e DOUBLE,
           f DATE, g DATETIME(3), h TIMESTAMP NULL, i TIME, j JSON, k VARCHAR(20), l ENUM('p'), m SET('q','r'), n BLOB, o POINT, p BIT(8), q YEAR);
         INSERT INTO x (id, f, g, k, l, m, c) VALUES (18446744073709551615, '2024-02-29', '2024-02-29 12:00:00.125', 'Hello World', 'p', 'q,r', 4294967295), (2, '0000-00-00', NULL, 'other', 'p', '', 1)`.replace(
          'CREATE',
          "SET sql_mode = ''; CREATE",
        ),
      )
      const sink = await openSink(service, feed)
      await writeAll(sink, feed.batch(first))
      const type = (mapping: unknown): unknown => (mapping as { type?: string }).type
      const mapping = await mappingOf(alias('x'))
      const found = Object.fromEntries(Object.entries(mapping).map(([k, v]) => [k, type(v)]))
      expect(found).toEqual({
        a: 'byte',
        b: 'integer',
        c: 'long',
        d: 'keyword',
        e: 'double',
        f: 'date',
        g: 'date',
        h: 'date',
        i: 'keyword',
        j: 'object',
        k: 'text',
        l: 'keyword',
        m: 'keyword',
        n: 'binary',
        o: 'binary',
        p: 'long',
        q: 'short',
        sluice: undefined,
        // the Elasticsearch of the tests has no x-pack
        id: name === 'opensearch' ? 'unsigned_long' : 'keyword',
      })
      const ids = async (query: object): Promise<string[]> =>
        Object.keys(await documents(service, alias('x'), query))
      const max = '18446744073709551615'
      expect(await ids({ match: { k: 'world' } })).toEqual([max])
      expect(await ids({ term: { 'k.keyword': 'Hello World' } })).toEqual([max])
      expect(await ids({ term: { m: 'r' } })).toEqual([max])
      expect(await ids({ term: { id: max } })).toEqual([max])
      const noon = '2024-02-29 12:00:00.100'
      expect(await ids({ range: { g: { gt: noon } } })).toEqual([max])
      expect(await ids({ range: { c: { gte: 4294967295 } } })).toEqual([max])
      const second = await feed.run(
        'SET sql_mode = ""; ALTER TABLE x ADD COLUMN z INT, MODIFY a VARCHAR(5); UPDATE x SET z = 7 WHERE id = 2',
      )
      await writeAll(sink, feed.batch(second))
      const later = await mappingOf(alias('x'))
      expect([type(later['z']), type(later['a'])]).toEqual(['integer', 'byte'])
      expect(await ids({ term: { z: 7 } })).toEqual(['2'])
      await sink.close()
    })
    it('are indexed anew behind the alias, with nothing lost and nothing back', async () => {
      const first = await feed.run(
        `CREATE TABLE n (id INT PRIMARY KEY, v BIGINT, p DECIMAL(6,2)); INSERT INTO n VALUES (1,9007199254740993,1.50),(2,2,2),(3,3,3)`,
      )
      const second = await feed.run('DELETE FROM n WHERE id = 3')
      const third = await feed.run('UPDATE n SET p = 9 WHERE id = 2')
      const { highest } = feed.batch(third)
      const one = await openSink(service, feed)
      await writeAll(one, feed.batch(first))
      await writeAll(one, feed.batch(second))
      await one.close()
      const two = await openSink(service, feed, { generation: 2, decimal: 'double' }, { fence: 2 })
      await writeAll(two, feed.batch(third))
      await writeAll(two, feed.batch(first, { highest }))
      const there = await documents(service, alias('n'))
      expect(JSON.stringify(there)).toBe(
        '{"1":{"id":1,"v":9007199254740993,"p":"1.50"},"2":{"id":2,"v":2,"p":"9.00"}}',
      )
      const behind = await ask<object>(service, 'GET', `/_alias/${alias('n')}`)
      expect(Object.keys(behind)).toEqual([`${alias('n')}-v2`])
      expect(await documents(service, alias('n'), { range: { p: { gt: 5 } } })).toHaveProperty('2')
      const back = await openSink(service, feed, {}, { fence: 3 })
      expect(await codeOf(back.write(feed.batch(third), noSignal))).toBe('SINK_UNSUITABLE')
      await Promise.all([two.close(), back.close()])
    })
    it('are not taken over from somebody else', async () => {
      const logged = await feed.run('CREATE TABLE o (id INT PRIMARY KEY); INSERT INTO o VALUES (1)')
      await ask(service, 'PUT', `/${alias('o')}`, {})
      const sink = await openSink(service, feed)
      expect(await codeOf(sink.write(feed.batch(logged), noSignal))).toBe('SINK_UNSUITABLE')
      await sink.close()
      const straight = await openSink(
        service,
        feed,
        { generation: 0, deletes: 'remove' },
        { fence: 2 },
      )
      await writeAll(straight, feed.batch(logged))
      expect(await shown(service, alias('o'))).toEqual({ 1: { id: 1 } })
      await straight.close()
    })
  })

  describe('the position', () => {
    it('is in the target, and its last owner is the only one', async () => {
      const first = await feed.run('CREATE TABLE p (id INT PRIMARY KEY); INSERT INTO p VALUES (1)')
      const second = await feed.run('INSERT INTO p VALUES (2)')
      const of = { sink: 'positions', server: first.start.server }
      const open = (more: object) => openSink(service, feed, {}, { ...of, ...more })
      const one = await open({ position: first.start, fence: 7 })
      expect([one.resume, one.seen]).toEqual([undefined, undefined])
      await writeAll(one, feed.batch(first))
      await one.reached(second.start)
      // the local state is as it was: it is as far, or it is not
      const again = await open({ position: second.start, fence: 8 })
      expect(again.resume).toBeUndefined()
      expect(again.seen).toEqual({ epoch: 1, server: of.server })
      const older = await open({ position: first.start, fence: 9 })
      expect(older.resume).toEqual(second.start)
      // the local state is lost: it begins at the start, or at the end
      const lost = await open({ position: first.start, fence: 1 })
      expect(lost.resume).toEqual(second.start)
      const ahead = await open({ position: feed.batch(second).end, fence: 1 })
      expect(ahead.resume).toEqual(second.start)
      const newer = await open({ epoch: 2, position: first.start, fence: 3 })
      expect(newer.resume).toBeUndefined()
      // who was first may not go on
      const late = one.reached(feed.batch(second).end).then(() => one.close())
      expect(await codeOf(late)).toBe('STATE_FENCED')
      await newer.reached(feed.batch(second).end)
      await Promise.all([again, older, lost, ahead, newer].map((sink) => sink.close()))
    })
    it('is not taken back by who slept while another process took it', async () => {
      const fed = await feed.run('CREATE TABLE sleepy (id INT PRIMARY KEY)')
      const open = (fence: number) =>
        openSink(service, feed, {}, { sink: 'sleeper', position: fed.start, fence })
      const one = await open(7)
      // opened again after an error, it goes on
      const again = await open(7)
      const path = `${service.url}/cursors-${feed.database}/_doc/${encodeURIComponent('shop/sleeper')}`
      const { _source } = (await (await fetch(path)).json()) as { _source: { fence: number } }
      const fence = _source.fence + 1
      const taken = await fetch(`${path}?version=${fence}&version_type=external`, {
        method: 'PUT',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ..._source, fence, owner: 'another process' }),
      })
      expect(taken.status).toBe(200)
      expect(await codeOf(open(7))).toBe('STATE_FENCED')
      // a later start of the instance is somebody's wish
      const later = await open(8)
      for (const sink of [one, again, later]) await sink.close()
    })
    it('is asked for at a server that is there', async () => {
      expect(await codeOf(openSink(service, feed, { nodes: 'http://127.0.0.1:9' }))).toBe(
        'SINK_UNAVAILABLE',
      )
      const nodes = ['http://127.0.0.1:9', service.url]
      const sink = await openSink(service, feed, { nodes }, { sink: 'two nodes' })
      await sink.close()
    })
  })

  it('says what it cannot do: partial images, and columns of our own name', async () => {
    const partial = await feed.run(
      `CREATE TABLE q (id INT PRIMARY KEY, v INT, w INT); INSERT INTO q VALUES (1,1,1); SET binlog_row_image = MINIMAL; UPDATE q SET v = 2`,
    )
    const named = await feed.run('SET binlog_row_image = MINIMAL; INSERT INTO q (id) VALUES (2)')
    const clash = await feed.run(
      'CREATE TABLE s (id INT PRIMARY KEY, sluice INT); INSERT INTO s VALUES (1,1)',
    )
    const sink = await openSink(service, feed)
    expect(await codeOf(sink.write(feed.batch(partial), noSignal))).toBe('SINK_UNSUITABLE')
    expect(await codeOf(sink.write(feed.batch(named), noSignal))).toBe('SINK_UNSUITABLE')
    expect(await codeOf(sink.write(feed.batch(clash), noSignal))).toBe('SINK_UNSUITABLE')
    await sink.close()
  })
})

/** Throws what was refused. */
function nothing(failures: readonly RowFailure[]): void {
  for (const { error } of failures) throw error
}
const number = (value: unknown): number =>
  Number(typeof value === 'number' ? value : (value as { rawJSON: string }).rawJSON)

/** Our JSON value in the form in which the type's SELECT gives it. */
function text(value: unknown, spec: TypeSpec, theirs: string): string {
  if (spec.sql === 'JSON')
    return JSON.stringify(value) === JSON.stringify(parseExact(theirs))
      ? theirs
      : JSON.stringify(value)
  if (Array.isArray(value)) return spec.show(value.join(','))
  if (typeof value === 'object' && value !== null) return (value as { rawJSON: string }).rawJSON
  if (typeof value !== 'string') return spec.show(value as number)
  const binary = spec.select('c').startsWith('HEX(c)')
  return spec.show(binary ? Buffer.from(value, 'base64') : value)
}
