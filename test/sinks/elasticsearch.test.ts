/** What the Elasticsearch sink computes without a server: document versions, documents in parts, options. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { elasticsearch } from '../../src/sinks/elasticsearch.ts'
import { Bulk } from '../../src/sinks/elasticsearch/bulk.ts'
import { Client, parseExact } from '../../src/sinks/elasticsearch/client.ts'
import { packText, packVersion } from '../../src/sinks/elasticsearch/documents.ts'
import { missingFields } from '../../src/sinks/elasticsearch/index/mapping.ts'
import { applyChanges, ROOT, type PartChange } from '../../src/sinks/elasticsearch/parts.ts'
import { versionText, type Version } from '../../src/sinks/shape/version.ts'

const HIGHEST = 'f'.repeat(40)
const facts = { highest: HIGHEST, now: 1_790_000_000_000, keepDeletedMs: 60_000 }
const codeOf = (work: () => unknown): string => {
  try {
    work()
    return 'none'
  } catch (error) {
    return error instanceof SluiceError ? error.code : String(error)
  }
}

describe('document versions', () => {
  const versions: fc.Arbitrary<Version> = fc.record({
    epoch: fc.nat(1023),
    file: fc.nat(0x1f_ffff),
    offset: fc.nat(0xffff_ffff),
    ordinal: fc.nat(0xffff_ffff),
    row: fc.nat(0xffff_ffff),
  })
  it('are in the order of versions, and fit 63 bits', () => {
    fc.assert(
      fc.property(versions, versions, (a, b) => {
        const [x, y] = [packText(versionText(a)), packText(versionText(b))]
        expect(x < 1n << 63n).toBe(true)
        const heads = [a, b].map((v) => versionText({ ...v, ordinal: 0, row: 0 }))
        expect(Math.sign(Number(x - y))).toBe(
          heads[0]! < heads[1]! ? -1 : heads[0] === heads[1] ? 0 : 1,
        )
      }),
    )
  })
  it('stay in order beyond 4 GiB, and are refused where they do not fit', () => {
    const at = (file: number, offset: number): bigint => packVersion({ epoch: 1, file, offset })
    expect(at(1, 2 ** 32)).toBe(at(1, 2 ** 32 - 1))
    expect(at(1, 2 ** 40)).toBeLessThan(at(2, 0))
    expect(codeOf(() => packVersion({ epoch: 1024, file: 1, offset: 4 }))).toBe('SINK_UNSUITABLE')
    expect(codeOf(() => at(2 ** 21, 4))).toBe('SINK_UNSUITABLE')
    expect(at(2 ** 21 - 1, 4)).toBeLessThan(packVersion({ epoch: 2, file: 0, offset: 0 }))
  })
})

describe('documents in parts', () => {
  const keys = ['1', '2', '__proto__']
  const events = fc.array(
    fc.record({
      part: fc.constantFrom(ROOT, 'items', 'notes'),
      key: fc.constantFrom(...keys),
      kind: fc.constantFrom('set', 'merge', 'delete'),
      v: fc.nat(9),
      w: fc.nat(9),
    }),
    { maxLength: 25 },
  )
  const changesOf = (
    list: readonly { part: string; key: string; kind: string; v: number; w: number }[],
  ) =>
    list.map(({ part, key, kind, v, w }, i): PartChange => ({
      part,
      key: part === ROOT ? ROOT : key,
      kind: kind as PartChange['kind'],
      version: versionText({ epoch: 1, file: 1, offset: i + 1, ordinal: 0, row: 0 }),
      fields: kind === 'delete' ? undefined : kind === 'merge' ? { w } : { v, w },
      row: i,
    }))
  /** Through JSON, as it is stored. */
  const put = (stored: Record<string, unknown> | undefined, changes: readonly PartChange[]) => {
    const next = applyChanges(stored, changes, 'here', facts)
    return next === undefined ? stored : parseExact<Record<string, unknown>>(JSON.stringify(next))
  }
  it('end as if each change had come once, in order, whatever is cut, repeated or replayed', () => {
    fc.assert(
      fc.property(events, fc.array(fc.tuple(fc.nat(25), fc.nat(8))), (list, replays) => {
        const changes = changesOf(list)
        const once = put(undefined, changes)
        let stored: Record<string, unknown> | undefined
        for (const change of changes) stored = put(stored, [change])
        for (const [from, count] of replays) stored = put(stored, changes.slice(from, from + count))
        expect(stored).toEqual(once)
        const shown = new Map<string, object>()
        for (const { part, key, kind, fields } of changes) {
          const name = `${part} ${key}`
          if (kind === 'delete') shown.delete(name)
          else shown.set(name, kind === 'set' ? { ...fields } : { ...shown.get(name), ...fields })
        }
        for (const part of ['items', 'notes']) {
          const rows = [...shown].filter(([name]) => name.startsWith(part)).map(([, row]) => row)
          const theirs = (stored?.[part] ?? []) as object[]
          expect(theirs.map((row) => JSON.stringify(row)).toSorted()).toEqual(
            rows.map((row) => JSON.stringify(row)).toSorted(),
          )
        }
        const root = shown.get(` ${ROOT}`)
        const { items: _, notes: __, sluice, ...rest } = stored ?? {}
        expect(rest).toEqual(root ?? {})
        if (stored) expect(sluice).toHaveProperty('parts')
        if (stored) expect(Object.hasOwn(sluice as object, 'deleted')).toBe(root === undefined)
      }),
    )
  })
  it('forget a deleted part when it is older than any replay', () => {
    const [gone, other] = changesOf([
      { part: 'items', key: '1', kind: 'delete', v: 1, w: 1 },
      { part: ROOT, key: '', kind: 'set', v: 1, w: 1 },
    ])
    const first = put(undefined, [gone!])
    const later = applyChanges(first, [other!], 'here', { ...facts, now: facts.now + 60_001 })
    expect(JSON.stringify(later)).not.toContain(gone!.version)
    expect(JSON.stringify(put(first, [other!]))).toContain(gone!.version)
  })
  it('notice what is newer than anything of the sink, and what somebody else wrote', () => {
    const [one] = changesOf([{ part: ROOT, key: '', kind: 'set', v: 1, w: 1 }])
    const stored = put(undefined, [one!])
    const older = { ...one!, version: '0'.repeat(40) }
    const low = { ...facts, highest: '0'.repeat(40) }
    expect(codeOf(() => applyChanges(stored, [older], 'here', low))).toBe('TARGET_AHEAD')
    expect(applyChanges(stored, [older], 'here', facts)).toBeUndefined()
    expect(codeOf(() => applyChanges({ v: 1 }, [one!], 'here', facts))).toBe('SINK_UNSUITABLE')
    const items = changesOf([{ part: 'items', key: '1', kind: 'set', v: 1, w: 1 }])
    const spoilt = { ...put(undefined, items), items: [] }
    expect(codeOf(() => applyChanges(spoilt, [one!], 'here', facts))).toBe('SINK_DATA')
  })
})

describe('bulk bodies', () => {
  it('hold what was ended, not what was dropped or abandoned', async () => {
    const bulk = new Bulk()
    const add = (text: string): number => {
      const action = bulk.begin(0, { index: 'i', id: text, routing: undefined })
      bulk.out.ascii(`${text}\n`)
      return action
    }
    add('one')
    bulk.end()
    const dropped = add('two')
    bulk.end()
    add('three')
    bulk.abandon()
    bulk.abandon()
    bulk.drop(dropped)
    add('four')
    bulk.end()
    const sent: string[] = []
    const server = createServer((request, response) => {
      void text(request).then((body) => {
        sent.push(body)
        response.setHeader('content-type', 'application/json').end('{"errors":false}')
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const nodes = [`http://127.0.0.1:${port}`]
    const client = await Client.open({ nodes, verify: true, compress: false, timeoutMs: 5000 })
    const limits = { bytes: 9, actions: 10, requests: 1, refresh: 'none' } as const
    const { signal } = new AbortController()
    await bulk.send(client, limits, signal)
    await bulk.send(client, { ...limits, bytes: 4 }, signal)
    await client.close()
    server.close()
    expect(sent).toEqual(['one\nfour\n', 'one\n', 'four\n'])
  })
})

describe('the client', () => {
  it('trusts the authority it is given, and shows its account to the server alone', async () => {
    const folder = join(import.meta.dirname, '../fixtures/mysql-tls')
    const [key, cert] = ['localhost.key.pem', 'localhost.pem'].map((file) =>
      readFileSync(join(folder, file)),
    )
    const accounts: (string | undefined)[] = []
    const server = createSecureServer({ key, cert }, (request, response) => {
      accounts.push(request.headers.authorization)
      response.writeHead(accounts.length > 2 ? 401 : 200, { 'content-type': 'application/json' })
      response.end('{"error": {"type": "security_exception", "reason": "who are you?"}}')
    })
    server.listen(0, 'localhost')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const ask = async (more: object): Promise<string> => {
      const common = { verify: true, compress: false, timeoutMs: 5000 }
      const client = await Client.open({ nodes: [`https://localhost:${port}`], ...common, ...more })
      try {
        return String((await client.request('GET', '/')).status)
      } catch (error) {
        return `${(error as SluiceError).code} ${String(error)}`
      } finally {
        await client.close()
      }
    }
    const caFile = join(folder, 'ca.pem')
    expect(await ask({})).toMatch(/^SINK_UNAVAILABLE .*certificate/)
    expect(await ask({ caFile, username: 'me', password: 'hush' })).toBe('200')
    expect(await ask({ verify: false, apiKey: 'c2VjcmV0' })).toBe('200')
    const nodes = [`https://me:hush@localhost:${port}`]
    const refused = await ask({ caFile, nodes })
    expect(refused).toMatch(/^SINK_UNSUITABLE .*status 401.*who are you/)
    expect(refused).not.toContain('hush')
    server.closeAllConnections()
    server.close()
    const basic = `Basic ${Buffer.from('me:hush').toString('base64')}`
    expect(accounts).toEqual([basic, 'ApiKey c2VjcmV0', basic])
  })
})

describe('numbers', () => {
  it('stay as they are written', () => {
    const text = '{"a":9007199254740993,"b":1.50,"c":[1e5,-0.0,18446744073709551615,"1.0"],"d":1}'
    expect(JSON.stringify(parseExact(text))).toBe(text)
  })
})

describe('mappings', () => {
  it('are extended by what is missing, deep down too', () => {
    const there = {
      a: { type: 'long' },
      n: { type: 'nested', properties: { x: { type: 'long' } } },
    }
    const wanted = {
      a: { type: 'keyword' },
      b: { type: 'text' },
      n: { type: 'nested', properties: { x: { type: 'long' }, y: { type: 'date' } } },
    }
    expect(missingFields(wanted, there)).toEqual({
      b: { type: 'text' },
      n: { type: 'nested', properties: { y: { type: 'date' } } },
    })
    expect(missingFields(there, there)).toEqual({})
  })
})

describe('options', () => {
  const parse = (own: object) => elasticsearch.options.safeParse({ nodes: 'http://a:9200', ...own })
  const problems = (own: object): string => elasticsearch.problems!(parse(own).data!).join('\n')
  it('are few where nothing is said', () => {
    expect(parse({}).success).toBe(true)
    expect(problems({})).toBe('')
  })
  it.each([
    [{ nodes: 'somewhere' }],
    [{ index: '{id}' }],
    [{ index: '{table' }],
    [{ keepDeletedMs: 5 }],
    [{ indexes: 'x' }],
    [{ documents: [{ table: 'a.b', nest: { index: 'x' } }] }],
  ])('refuse %j', (own) => {
    expect(parse(own).success).toBe(false)
  })
  const nest = { index: 'x', field: 'f', document: '{p}' }
  it.each([
    [{ generation: 0 }, /generation 0/],
    [{ apiKey: 'a', username: 'b' }, /one of the two/],
    [{ password: 'b' }, /username/],
    [{ documents: [{ table: 'a' }] }, /database\.table/],
    [{ documents: [{ table: 'a.b' }, { table: ['a.b'] }] }, /twice/],
    [{ documents: [{ table: 'a.b', nest }], deletes: 'remove' }, /tombstone/],
    [{ documents: [{ table: 'a.b', nest, index: 'y' }] }, /nest\.index/],
    [{ versions: 'parts', routing: '{a}', documents: [{ table: 'a.b' }] }, /routing/],
    [{ versions: 'parts', pipeline: 'p', documents: [{ table: 'a.b' }] }, /pipeline/],
    [{ documents: [{ table: 'a.b', join: { field: 'j', name: 'n', of: 'm' } }] }, /together/],
  ])('say what does not go together: %j', (own, expected) => {
    expect(problems(own)).toMatch(expected)
  })
})

describe('the manual', () => {
  it('has exactly the options there are', () => {
    const rows = readFileSync('docs/sinks/elasticsearch.md', 'utf8').matchAll(
      /^\| `([\w.[\]]+)` \| (?:`(.*)`)? \| (.+) \|$/gm,
    )
    const found = [...rows].map(([, key, value, text]) => [key, value, text])
    expect(found).toEqual(optionRows(elasticsearch.options, ''))
  })
})

interface Inner {
  readonly description?: string | undefined
  readonly shape?: object
  readonly _zod: { readonly def: { innerType?: Inner; defaultValue?: unknown; element?: Inner } }
}
/** Key, default and description of every option, those within others too. */
function optionRows({ shape = {} }: Pick<Inner, 'shape'>, prefix: string): unknown[][] {
  return Object.entries(shape as Record<string, Inner>).flatMap(([key, outer]) => {
    let inner = outer
    let value: unknown
    let text = outer.description
    for (let def = inner._zod.def; def.innerType; def = inner._zod.def) {
      value ??= def.defaultValue
      inner = def.innerType
      text ??= inner.description
    }
    const name = `${prefix}${key}`
    const { element } = inner._zod.def
    return [
      [name, value === undefined ? undefined : JSON.stringify(value), text],
      ...optionRows(inner, `${name}.`),
      ...(element ? optionRows(element, `${name}[].`) : []),
    ]
  })
}
