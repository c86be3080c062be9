/** The file sink on real files: what a line holds, and what happens at the edges of a file. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { file } from '../../src/sinks/file.ts'
import { formatOptions } from '../../src/sinks/formats/format.ts'
import { formats } from '../../src/sinks/formats/index.ts'
import { MessageWriter } from '../../src/sinks/formats/messages.ts'
import type { Sink } from '../../src/sinks/sink.ts'
import { sharedMysql, uniqueDatabase, versions, type MysqlServer } from '../support/mysql.ts'
import { startSluice } from '../support/sluice.ts'
import { context, feed, type Fed } from './logged.ts'

let mysql: MysqlServer
let database: string
let fed: Fed
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  database = uniqueDatabase('file')
  await mysql.query(`CREATE DATABASE ${database}`)
  await mysql.query(
    `CREATE TABLE ${database}.t (id INT PRIMARY KEY, name VARCHAR(2000), price DECIMAL(10,2), data BLOB);
     CREATE TABLE ${database}.bare (n INT)`,
  )
  fed = await feed(
    mysql,
    database,
    `INSERT INTO t VALUES (1, 'one "quoted"\\n', 1.50, x'00ff'), (2, NULL, NULL, NULL);
     UPDATE t SET id = 3, name = 'three' WHERE id = 1; DELETE FROM t WHERE id = 2;
     INSERT INTO bare VALUES (7); TRUNCATE TABLE bare`,
  )
})
afterAll(async () => {
  await mysql?.query(`DROP DATABASE ${database}`)
  await mysql?.[Symbol.asyncDispose]()
})

let dir: string
let path: string
let log: string[]
let sinks: Sink[]
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sluice-file-'))
  path = join(dir, 'changes.ndjson')
  log = []
  sinks = []
})
afterEach(async () => {
  for (const sink of sinks) await sink.close()
  rmSync(dir, { recursive: true })
})
const { signal } = new AbortController()
async function open(more: object = {}): Promise<Sink> {
  const sink = await file.open(file.options.parse({ path, ...more }), context(log))
  sinks.push(sink)
  return sink
}
const parsed = (text: string) =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>)
const lines = (name = path) => parsed(readFileSync(name, 'utf8'))
const asideFiles = () =>
  readdirSync(dir)
    .filter((name) => /\.\d{6}/.test(name))
    .sort()

test('a line holds the whole change', async () => {
  const sink = await open()
  expect(await sink.write(fed.batch, signal)).toEqual([])
  for (const statement of fed.statements) await sink.statement!(statement, signal)
  const one = { id: 1, name: 'one "quoted"\n', price: '1.50', data: 'AP8=' }
  const two = { id: 2, name: null, price: null, data: null }
  const head = { kind: 'row', database, table: 't' }
  const all = lines()
  expect(all.slice(0, 5)).toMatchObject([
    { ...head, op: 'insert', key: { id: 1 }, before: null, after: one },
    { ...head, op: 'insert', key: { id: 2 }, before: null, after: two },
    { ...head, op: 'update', key: { id: 3 }, before: one, after: { ...one, id: 3, name: 'three' } },
    { ...head, op: 'delete', key: { id: 2 }, before: two, after: null },
    { kind: 'row', op: 'insert', table: 'bare', key: null, after: { n: 7 } },
  ])
  expect(all[5]).toMatchObject({ kind: 'statement', type: 'TRUNCATE', database, table: 'bare' })
  expect(all).toHaveLength(6)
  const rows = all.slice(0, 5)
  const versions = rows.map((line) => line['version'] as string)
  expect(versions).toEqual([...new Set(versions)].sort())
  expect(versions.every((version) => /^[0-9a-f]{40}$/.test(version))).toBe(true)
  expect(new Set(rows.map((line) => line['id'])).size).toBe(5)
  expect(rows.every(({ position }) => /^\S+\.\d+:\d+$/.test(position as string))).toBe(true)
  expect(rows.every(({ ts }) => typeof ts === 'number' && ts > 1.7e12)).toBe(true)
  const raw = readFileSync(path, 'utf8')
  expect(raw.split('\n')[0]).toMatch(
    /^\{"kind":"row","op":"insert","database":"\w+","table":"t","key":\{"id":1\},"before":null,"after":\{/,
  )
})

describe.each(['canal-json', 'debezium', 'debezium-schema', 'cloudevents', 'maxwell'] as const)(
  'format %s',
  (format) => {
    afterEach(() => {
      vi.useRealTimers()
    })
    test('a line is the message that a topic would get', async () => {
      vi.setSystemTime(1_790_000_000_000) // some formats name the time of writing
      const given = { instance: 'orders', server: '', options: formatOptions.parse({}) }
      const writer = new MessageWriter<string>({
        format: formats[format],
        context: given,
        route: () => '',
        headers: false,
        key: undefined,
        tombstones: false,
        chunkBytes: 1024 * 1024,
      })
      const expected = [...writer.chunks(fed.batch)].flatMap(({ messages }) =>
        messages.map(({ value }) => value!.toString()),
      )
      const sink = await open({ format })
      expect(await sink.write(fed.batch, signal)).toEqual([])
      expect(readFileSync(path, 'utf8')).toBe(expected.map((line) => `${line}\n`).join(''))
      expect(lines().length).toBeGreaterThan(3)
      for (const statement of fed.statements) await sink.statement!(statement, signal)
      if (format === 'canal-json') expect(lines().at(-1)).toMatchObject({ type: 'TRUNCATE' })
    })
    test('a line that is too long is refused with its rows, the others are written', async () => {
      const sink = await open({ format, lineBytesMax: '1KiB' })
      const long = await feed(
        mysql,
        database,
        `INSERT INTO t VALUES (10, 'short', 1, NULL); INSERT INTO t VALUES (11, '${'x'.repeat(1500)}', 1, NULL);
         INSERT INTO t VALUES (12, 'after', 1, NULL); DELETE FROM t WHERE id >= 10`,
      )
      const failures = await sink.write(long.batch, signal)
      const short = format === 'debezium-schema' ? 0 : 2 // its schema alone is longer
      expect(failures.map((failure) => failure.index)).toContain(1)
      expect(failures[0]!.error).toMatchObject({ code: 'SINK_DATA' })
      const text = readFileSync(path, 'utf8')
      expect(['short', 'after'].filter((name) => text.includes(`"${name}"`))).toHaveLength(short)
      expect(text).not.toContain('xxx')
    })
  },
)

test('values as the options say, and no statements where they are not wanted', async () => {
  const sink = await open({ decimal: 'number', binary: 'hex', statements: false })
  await sink.write(fed.batch, signal)
  expect('statement' in sink).toBe(false)
  expect(readFileSync(path, 'utf8')).toContain('"price":1.50,"data":"00ff"')
})

describe('a line without an end', () => {
  test('is cut off at open, and nothing else', async () => {
    await (await open()).write(fed.batch, signal)
    await sinks.pop()!.close()
    const whole = readFileSync(path, 'utf8')
    appendFileSync(path, '{"kind":"row","op":"ins')
    const sink = await open()
    expect(readFileSync(path, 'utf8')).toBe(whole)
    expect(log.join()).toContain('23 bytes cut off')
    await sink.write(fed.batch, signal)
    expect(lines()).toHaveLength(10)
  })
  test('longer than what is read at once', async () => {
    writeFileSync(path, `{"a":1}\n{"b":"${'x'.repeat(200_000)}`)
    await open()
    expect(readFileSync(path, 'utf8')).toBe('{"a":1}\n')
  })
  test('is moved away where there is no whole line: nothing says that the file was ours', async () => {
    writeFileSync(path, '{"some":"body else\'s file"}')
    await (await open()).write(fed.batch, signal)
    expect(readFileSync(`${path}.torn`, 'utf8')).toBe('{"some":"body else\'s file"}')
    expect(lines()).toHaveLength(5)
  })
})

test.each([
  ['a file of something else', () => writeFileSync(path, 'root:x:0:0\n'), 'expected JSON lines'],
  ['a folder', () => execFileSync('mkdir', [path]), 'expected a plain file'],
  ['a pipe', () => execFileSync('mkfifo', [path]), 'expected a plain file'],
])('%s is refused and left alone', async (_, make, text) => {
  make()
  const before = statSync(path)
  await expect(open()).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
  await expect(open()).rejects.toThrow(text)
  expect(statSync(path).size).toBe(before.size)
})

test('two sinks do not share a file, and another writer is noticed', async () => {
  const sink = await open()
  await expect(open()).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
  await sink.write(fed.batch, signal)
  appendFileSync(path, '{"not":"ours"}\n')
  await expect(sink.write(fed.batch, signal)).rejects.toMatchObject({ code: 'SINK_UNSUITABLE' })
  expect(lines()).toHaveLength(6)
})

test('a file that was moved away is begun anew; one that was emptied goes on', async () => {
  const sink = await open()
  await sink.write(fed.batch, signal)
  renameSync(path, `${path}.moved`)
  await sink.write(fed.batch, signal)
  expect(lines()).toHaveLength(5)
  expect(lines(`${path}.moved`)).toHaveLength(5)
  writeFileSync(path, '')
  await sink.write(fed.batch, signal)
  expect(lines()).toHaveLength(5)
})

describe('rotation', () => {
  test('by size: no file is larger, a longer line has one of its own, the order is that of the numbers', async () => {
    const pads = [100, 100, 1900, 100, 100, 100, 100, 100]
    const values = pads.map((n, i) => `(${i + 100}, '${'x'.repeat(n)}', NULL, NULL)`)
    const { batch } = await feed(mysql, database, `INSERT INTO t VALUES ${values.join(',')}`)
    const sink = await open({ rotate: { bytes: 1000 } })
    await sink.write(batch, signal)
    await sink.write(batch, signal)
    const names = [...asideFiles(), 'changes.ndjson']
    const contents = names.map((name) => readFileSync(join(dir, name), 'utf8'))
    expect(names[0]).toBe('changes.ndjson.000001')
    expect(contents.every((text) => text.length <= 1000 || text.split('\n').length === 2)).toBe(
      true,
    )
    expect(contents.filter((text) => text.length > 1000)).toHaveLength(2)
    const ids = contents.flatMap(parsed).map(({ key }) => (key as { id: number }).id)
    const expected = pads.map((_, i) => i + 100)
    expect(ids).toEqual([...expected, ...expected])
    await sinks.pop()!.close()
    await (await open({ rotate: { bytes: 1000 } })).write(batch, signal)
    expect(asideFiles().length).toBeGreaterThan(names.length - 1)
    expect(new Set(asideFiles()).size).toBe(asideFiles().length)
  })
  test('by time: what was written in another span is put aside', async () => {
    const rotate = { everyMs: '1h' }
    await (await open({ rotate })).write(fed.batch, signal)
    await sinks.pop()!.close()
    expect(asideFiles()).toEqual([])
    const yesterday = new Date(Date.now() - 86_400_000)
    utimesSync(path, yesterday, yesterday)
    const sink = await open({ rotate })
    await sink.write(fed.batch, signal)
    await sink.write(fed.batch, signal)
    expect(asideFiles()).toEqual(['changes.ndjson.000001'])
    expect(lines()).toHaveLength(10)
  })
  test('compresses, keeps as many as asked for, and takes up what a crash interrupted', async () => {
    await (await open({ rotate: { bytes: 300 } })).write(fed.batch, signal)
    await sinks.pop()!.close()
    const plain = asideFiles()
    expect(plain.length).toBeGreaterThan(3)
    writeFileSync(join(dir, `${plain[0]!}.gz.part`), 'half of it')
    const all = [...plain.map((name) => join(dir, name)), path].flatMap((name) => lines(name))
    await open({ rotate: { bytes: 300, gzip: true } })
    await expect.poll(() => asideFiles().every((name) => name.endsWith('.gz'))).toBe(true)
    expect(asideFiles()).toHaveLength(plain.length)
    const packed = asideFiles().flatMap((name) =>
      parsed(gunzipSync(readFileSync(join(dir, name))).toString()),
    )
    expect([...packed, ...lines()]).toEqual(all)
    await sinks.pop()!.close()
    const sink = await open({ rotate: { bytes: 300, gzip: true, keep: 2 } })
    await sink.write(fed.batch, signal)
    await expect.poll(() => asideFiles().length).toBe(2)
    await expect.poll(() => asideFiles().every((name) => name.endsWith('.gz'))).toBe(true)
  })
})

test('a row whose line is too long is refused, the others are written', async () => {
  const { batch } = await feed(
    mysql,
    database,
    `INSERT INTO t VALUES (50, 'short', 1, NULL), (51, REPEAT('x', 2000), 1, NULL), (52, 'short', 1, NULL)`,
  )
  const sink = await open({ lineBytesMax: 1024 })
  const failures = await sink.write(batch, signal)
  expect(failures).toMatchObject([{ index: 1, retryable: false, error: { code: 'SINK_DATA' } }])
  expect(failures[0]!.error.message).toContain(`${database}.t at `)
  expect(lines().map(({ key }) => key)).toEqual([{ id: 50 }, { id: 52 }])
})

const KIB = 1024
/** Room for 256 KiB: a file system of that size, or where we may not mount one, a limit to how large a file may become. */
function smallDisk(): Disposable {
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', dir]).status === 0)
    return { [Symbol.dispose]: () => void execFileSync('umount', [dir]) }
  const limit = (size: string) =>
    execFileSync('prlimit', ['--pid', String(process.pid), `--fsize=${size}:`])
  const ignore = () => {}
  process.on('SIGXFSZ', ignore)
  limit(String(256 * KIB))
  return {
    [Symbol.dispose]() {
      limit('unlimited')
      process.off('SIGXFSZ', ignore)
    },
  }
}
test('a full disk is tried again, and leaves whole lines', async () => {
  using _disk = smallDisk()
  const sink = await open({ rotate: { bytes: 0 } })
  await sink.write(fed.batch, signal)
  const before = readFileSync(path, 'utf8')
  const many = Array.from({ length: 150 }, (_, i) => `(${i + 1000}, REPEAT('y', 1900), 1, NULL)`)
  const { batch } = await feed(mysql, database, `INSERT INTO t VALUES ${many.join(',')}`)
  await expect(sink.write(batch, signal)).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
  await expect(sink.write(batch, signal)).rejects.toThrow(/ENOSPC|EFBIG/)
  await sink.write(fed.batch, signal)
  expect(readFileSync(path, 'utf8')).toBe(before + before)
  await sinks.pop()!.close()
})

describe('standard output', () => {
  const script = `
    import { file } from ${JSON.stringify(join(import.meta.dirname, '../../src/sinks/file.ts'))}
    import { context, feed } from ${JSON.stringify(join(import.meta.dirname, 'logged.ts'))}
    import { sharedMysql } from ${JSON.stringify(join(import.meta.dirname, '../support/mysql.ts'))}
    const [version, database, sql, times] = process.argv.slice(1)
    await using mysql = await sharedMysql(version)
    const { batch } = await feed(mysql, database, sql)
    const sink = await file.open(file.options.parse({ path: '-' }), context())
    const signal = new AbortController().signal
    let ticks = 0
    const timer = setInterval(() => ticks++, 1)
    for (let i = 0; i < Number(times); i++) await sink.write(batch, signal)
    clearInterval(timer)
    await sink.close()
    console.error(ticks)`
  const start = (sql: string, times: number) =>
    spawn(
      process.execPath,
      ['--input-type=module-typescript', '-e', script, versions[0]!, database, sql, String(times)],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )

  test('gets every line; a slow reader slows the sink and not the process', async () => {
    const child = start(`REPLACE INTO t VALUES (60, REPEAT('z', 1000), 1, NULL)`, 1000)
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
    await new Promise((resolve) => child.stdout.once('readable', resolve))
    await new Promise((resolve) => setTimeout(resolve, 300))
    let text = ''
    for await (const chunk of child.stdout.setEncoding('utf8')) text += String(chunk)
    expect(parsed(text)).toHaveLength(1000) // more than a pipe holds
    await expect.poll(() => errors).toMatch(/\d/)
    expect(Number(/\d+/.exec(errors)?.[0])).toBeGreaterThan(10)
  })
  test.each(['stderr', 'stdout'])('of a whole Sluice whose log goes to %s', async (stream) => {
    const { host, port, user, password } = mysql
    const sluice = await startSluice({
      dir,
      server: { log: { stream } },
      instances: {
        orders: {
          source: { host, port, user, password },
          filter: { include: `${database}\\..*` },
          sinks: { out: { type: 'file', path: '-' } },
        },
      },
    })
    if (stream === 'stdout')
      expect(await sluice.logged('SINK_UNSUITABLE')).toContain('log.stream: stderr')
    else {
      await sluice.logged('sink out running')
      await mysql.query(`REPLACE INTO ${database}.t VALUES (62, UUID(), 1, NULL)`)
      expect(await sluice.logged('"kind":"row"')).toContain('"key":{"id":62}')
    }
    await sluice.stop()
  })
  test('whose reader ended stops the sink', async () => {
    const child = start(`REPLACE INTO t VALUES (61, REPEAT('z', 1000), 1, NULL)`, 3000)
    let errors = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
    await new Promise((resolve) => child.stdout.once('readable', resolve))
    child.stdout.destroy()
    await expect.poll(() => errors, { timeout: 20_000 }).toContain('SINK_UNSUITABLE')
    expect(existsSync(path)).toBe(false)
  })
})
