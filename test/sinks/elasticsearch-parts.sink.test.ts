/** The Elasticsearch sink on real servers: documents of several rows, rows in pieces, parents and children. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasService, sharedService, type Service } from '../support/services.ts'
import {
  codeOf,
  codes,
  documents,
  Feed,
  noSignal,
  openSink,
  shown,
  stored,
  writeAll,
  type Document,
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

  let count = 0
  /** Orders with their items, in tables and an index of their own. */
  async function shop(options: object = {}) {
    const n = count++
    const index = `${feed.database}-orders${n}`
    const made = await feed.run(
      `CREATE TABLE o${n} (id INT PRIMARY KEY, v BIGINT, d DECIMAL(6,2) DEFAULT 1);
       CREATE TABLE i${n} (id INT PRIMARY KEY, o INT, v BIGINT)`,
    )
    const nested = { index, field: 'items', document: '{o}', key: '{id}' }
    const tables = [
      { table: `${feed.database}.o${n}`, index },
      { table: `${feed.database}.i${n}`, nest: nested },
    ]
    const open = (sink: string) =>
      openSink(service, feed, { documents: tables, ...options }, { sink: `${sink}${n}` })
    const sql = (text: string): string => text.replaceAll(/\b([oi])#/g, `$1${n}`)
    /** What the documents should be, of the tables as they are. */
    const expected = async (): Promise<Record<string, Document>> => {
      type Row = { id: number; o: number; v: string | number; d: string }
      const items = await feed.select<Row>(`SELECT id, o, v FROM i${n} ORDER BY id`)
      const orders = await feed.select<Row>(`SELECT id, v, d FROM o${n} ORDER BY id`)
      return Object.fromEntries(
        orders.map((order) => [
          order.id,
          { ...order, items: items.filter((i) => i.o === order.id) },
        ]),
      )
    }
    const found = async (): Promise<Record<string, Document>> => {
      const all = await shown(service, index)
      for (const source of Object.values(all)) {
        const items = (source['items'] ?? []) as { id: number }[]
        source['items'] = items.sort((a, b) => a.id - b.id)
      }
      return all
    }
    return { index, made, open, run: (text: string) => feed.run(sql(text)), expected, found }
  }

  it('puts the rows of a child table into the documents of their parents, in any order of events', async () => {
    const { index, open, run, expected, found } = await shop()
    const sink = await open('nested')
    const steps = [
      'INSERT INTO i# VALUES (1,10,1),(2,10,2); INSERT INTO o# (id, v) VALUES (10,9007199254740993),(11,2)',
      'UPDATE i# SET v = v + 10; INSERT INTO i# VALUES (3,11,3)',
      'UPDATE o# SET v = 5 WHERE id = 10; UPDATE i# SET o = 11 WHERE id = 1',
      'BEGIN; DELETE FROM i# WHERE id = 2; UPDATE i# SET id = 7 WHERE id = 1; UPDATE o# SET d = 2.50; COMMIT',
      'DELETE FROM o# WHERE id = 10; INSERT INTO i# VALUES (8,10,8)',
      'INSERT INTO o# (id, v) VALUES (10,1)',
      'UPDATE o# SET id = 12 WHERE id = 11; UPDATE i# SET o = 12 WHERE o = 11',
    ]
    const logged = []
    for (const step of steps) {
      const one = await run(step)
      logged.push(one)
      await writeAll(sink, feed.batch(one))
      expect(JSON.stringify(await found()), step).toBe(exact(await expected()))
    }
    // a replay from any point changes nothing
    const { highest } = feed.batch(logged.at(-1)!)
    const before = await documents(service, index)
    for (const one of logged) await writeAll(sink, feed.batch(one, { highest }))
    expect(await documents(service, index)).toEqual(before)
    const nested = (id: number) => ({
      nested: { path: 'items', query: { term: { 'items.id': id } } },
    })
    expect(Object.keys(await documents(service, index, nested(8)))).toEqual(['10'])
    expect(Object.keys(await documents(service, index, nested(2)))).toEqual([])
    await sink.close()
  })

  it('keeps documents right with two writers at once, one of them late', async () => {
    const { open, run, expected, found } = await shop({ bulkActions: 7 })
    const [one, two] = [await open('first'), await open('second')]
    const logged = await run(
      'INSERT INTO o# (id, v) VALUES (1,1),(2,1),(3,1); INSERT INTO i# VALUES (1,1,1),(2,1,1),(3,2,1),(4,3,1);' +
        Array.from(
          { length: 30 },
          (_, k) =>
            `UPDATE i# SET v = ${k}, o = ${(k % 3) + 1} WHERE id = ${(k % 4) + 1}; UPDATE o# SET v = ${k} WHERE id = ${(k % 3) + 1}`,
        ).join(';'),
    )
    const batch = feed.batch(logged)
    const total = [...batch.rows(false)].length
    const inSteps = async (sink: typeof one, step: number): Promise<void> => {
      for (let at = 0; at < total; at += step) await writeAll(sink, batch.slice(at, at + step))
    }
    await Promise.all([inSteps(one, 3), inSteps(two, 5)])
    expect(JSON.stringify(await found())).toBe(exact(await expected()))
    await Promise.all([one.close(), two.close()])
  })

  it('refuses only the row that the server refuses, with its neighbours in one document', async () => {
    const { open, run, found } = await shop({ fields: { d: { type: 'date', format: 'uuuu' } } })
    const sink = await open('refusing')
    const logged = await run(
      'BEGIN; INSERT INTO i# VALUES (1,1,1); INSERT INTO o# (id, d) VALUES (1,2.5); INSERT INTO i# VALUES (2,1,2); COMMIT',
    )
    const failures = await sink.write(feed.batch(logged), noSignal)
    expect(codes(failures)).toEqual([[1, 'SINK_DATA', false]])
    expect(await found()).toEqual({})
    await sink.close()
  })

  it('stops with TARGET_AHEAD when a part is newer than anything of this sink', async () => {
    const { open, run } = await shop()
    const first = await run('INSERT INTO o# (id) VALUES (1)')
    const second = await run('UPDATE o# SET v = 2')
    const [one, two] = [await open('one'), await open('two')]
    await writeAll(one, feed.batch(second))
    expect(await codeOf(two.write(feed.batch(first), noSignal))).toBe('TARGET_AHEAD')
    await Promise.all([one.close(), two.close()])
  })

  it('clears parts at TRUNCATE, and removes what is long dead', async () => {
    const { index, open, run, expected, found } = await shop()
    const sink = await open('truncating')
    const filled = await run(
      'INSERT INTO o# (id, v) VALUES (1,1),(2,1); INSERT INTO i# VALUES (1,1,1),(2,2,2)',
    )
    const children = await run('TRUNCATE TABLE i#')
    const later = await run('INSERT INTO i# VALUES (5,1,5)')
    const parents = await run('TRUNCATE TABLE o#')
    const { highest } = feed.batch(later)
    await writeAll(sink, feed.batch(filled))
    await sink.statement(feed.statements(children)[0]!, noSignal)
    await writeAll(sink, feed.batch(later))
    await sink.statement(feed.statements(children)[0]!, noSignal)
    const child = [{ id: 5, o: 1, v: 5 }]
    const there = await found()
    expect([there['1']?.['items'], there['2']?.['items']]).toEqual([child, []])
    await sink.statement(feed.statements(parents)[0]!, noSignal)
    await writeAll(sink, feed.batch(filled, { highest }))
    expect(await found()).toEqual(await expected())
    await sink.purge(noSignal)
    expect(await stored(service, `${index}-v1`, '2')).toBeDefined()
    await sink.close()
  })

  it('merges what has changed where row images are in pieces', async () => {
    const run = (sql: string) => feed.run(`SET binlog_row_image = MINIMAL; ${sql}`)
    const first = await run(
      `CREATE TABLE minimal (id INT PRIMARY KEY, a INT, b BIGINT, c JSON, e VARCHAR(9)); INSERT INTO minimal VALUES (1,1,9007199254740993,'{"x": 1e20}','e'),(2,2,2,NULL,NULL)`,
    )
    const second = await run(
      'UPDATE minimal SET a = 5 WHERE id = 1; UPDATE minimal SET a = NULL, e = "f" WHERE id = 2',
    )
    const third = await run('DELETE FROM minimal WHERE id = 2; INSERT INTO minimal (id) VALUES (2)')
    const index = `${feed.database}-minimal`
    const sink = await openSink(service, feed, { versions: 'parts' })
    const { highest } = feed.batch(third)
    for (const one of [first, second, third]) await writeAll(sink, feed.batch(one))
    const expected = {
      1: '{"id":1,"a":5,"b":9007199254740993,"c":{"x":1e20},"e":"e"}',
      // what an INSERT does not name is not logged
      2: '{"id":2}',
    }
    const there = async () =>
      Object.fromEntries(
        Object.entries(await shown(service, index)).map(([id, s]) => [id, JSON.stringify(s)]),
      )
    expect(await there()).toEqual(expected)
    for (const one of [first, second, third]) await writeAll(sink, feed.batch(one, { highest }))
    expect(await there()).toEqual(expected)
    const moved = await run('UPDATE minimal SET id = 3 WHERE id = 1')
    expect(codes(await sink.write(feed.batch(moved), noSignal))).toEqual([[0, 'SINK_DATA', false]])
    const difference = await feed.run(
      `SET binlog_row_image = MINIMAL, binlog_row_value_options = PARTIAL_JSON; UPDATE minimal SET c = JSON_SET(c, '$.x', 2) WHERE id = 3`,
    )
    expect(await codeOf(sink.write(feed.batch(difference), noSignal))).toBe('SINK_UNSUITABLE')
    await sink.close()
  })

  it('indexes a document in parts anew behind its alias', async () => {
    const { index, open, run, expected, found } = await shop()
    const first = await run(
      'INSERT INTO o# (id, v) VALUES (1,1),(2,1); INSERT INTO i# VALUES (1,1,1)',
    )
    const second = await run('UPDATE i# SET v = 7; DELETE FROM o# WHERE id = 2')
    const one = await open('generations')
    await writeAll(one, feed.batch(first))
    await one.close()
    const again = await shopAgain(index)
    await writeAll(again, feed.batch(second))
    await writeAll(again, feed.batch(first, { highest: feed.batch(second).highest }))
    expect(JSON.stringify(await found())).toBe(exact(await expected()))
    await again.close()
  })
  /** The sink of the last shop with the next generation. */
  async function shopAgain(index: string) {
    const n = count - 1
    const tables = [
      { table: `${feed.database}.o${n}`, index },
      { table: `${feed.database}.i${n}`, nest: { index, field: 'items', document: '{o}' } },
    ]
    return openSink(
      service,
      feed,
      { documents: tables, generation: 2 },
      { sink: `generations${n}`, fence: 2 },
    )
  }
})

// the Elasticsearch of the tests has no join, no flattened, no scaled_float, no pipelines
describe.runIf(hasService('opensearch'))('what only a complete server has', () => {
  let service: Service
  let feed: Feed
  beforeAll(async () => {
    service = sharedService('opensearch')
    feed = await Feed.open()
  })
  afterAll(async () => {
    await feed[Symbol.asyncDispose]()
  })

  it('joins parents and children in one index, each a document with a version of its own', async () => {
    const logged = await feed.run(
      `CREATE TABLE p (id INT PRIMARY KEY, v INT); CREATE TABLE c (id INT PRIMARY KEY, p INT, w INT);
       INSERT INTO p VALUES (1,1),(2,2); INSERT INTO c VALUES (1,1,1),(2,1,2),(3,2,3);
       UPDATE c SET p = 2 WHERE id = 2; UPDATE c SET w = 9 WHERE id = 1; DELETE FROM c WHERE id = 3`,
    )
    const index = `${feed.database}-joined`
    const join = { field: 'relation', name: 'child', of: 'parent', parent: '{p}' }
    const tables = [
      { table: `${feed.database}.p`, index, join: { field: 'relation', name: 'parent' } },
      { table: `${feed.database}.c`, index, join },
    ]
    const sink = await openSink(service, feed, {
      documents: tables,
      settings: { number_of_shards: 3 },
    })
    await writeAll(sink, feed.batch(logged))
    await writeAll(sink, feed.batch(logged))
    const children = (p: number) => ({
      has_parent: { parent_type: 'parent', query: { term: { id: p } } },
    })
    const of = async (p: number) => Object.keys(await documents(service, index, children(p)))
    expect([await of(1), await of(2)]).toEqual([['child:1'], ['child:2']])
    const parents = { has_child: { type: 'child', query: { term: { w: 9 } } } }
    expect(Object.keys(await documents(service, index, parents))).toEqual(['1'])
    const truncated = await feed.run('TRUNCATE TABLE c')
    await sink.statement(feed.statements(truncated)[0]!, noSignal)
    expect(Object.keys(await documents(service, index)).toSorted()).toEqual(['1', '2'])
    await sink.close()
  })

  it('has flattened JSON, scaled decimals and ingest pipelines', async () => {
    const pipeline = `${feed.database}-p`
    const body = { processors: [{ set: { field: 'added', value: 'by {{id}}' } }] }
    await fetch(`${service.url}/_ingest/pipeline/${pipeline}`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    const logged = await feed.run(
      `CREATE TABLE f (id INT PRIMARY KEY, j JSON, d DECIMAL(20,4)); INSERT INTO f VALUES (1,'{"a": {"b": "x"}}',12.3400),(2,'{"a": 5}',99.5)`,
    )
    const options = { json: 'flattened', decimal: 'scaledFloat', pipeline, routing: '{id}' }
    const sink = await openSink(service, feed, options)
    await writeAll(sink, feed.batch(logged))
    const index = `${feed.database}-f`
    const ids = async (query: object) => Object.keys(await documents(service, index, query))
    expect(await ids({ term: { 'j.a.b': 'x' } })).toEqual(['1'])
    expect(await ids({ range: { d: { gt: 12.3399, lt: 12.3401 } } })).toEqual(['1'])
    expect(await ids({ term: { 'added.keyword': 'by 2' } })).toEqual(['2'])
    expect((await shown(service, index))['1']).toHaveProperty('d', '12.3400')
    await sink.close()
  })
})

/** Large numbers, which SELECT gives as text, as they stand in JSON. */
const exact = (expected: object): string =>
  JSON.stringify(expected).replaceAll(/"v":"(\d+)"/g, '"v":$1')
