import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { parseDocument } from 'yaml'
import type { z } from 'zod'
import { schemaFiles } from '../../src/commands/print/schema.ts'
import {
  instanceFiles,
  instanceSchema,
  loadInstance,
  loadServer,
  orThrow,
  serverSchema,
} from '../../src/config/config.ts'
import { listKeys, nearest } from '../../src/config/keys.ts'
import { formatProblem, YamlFile } from '../../src/config/yaml.ts'

const folder = mkdtempSync(join(tmpdir(), 'sluice-config-'))
afterAll(() => rmSync(folder, { recursive: true }))

function instance(text: string, env: Record<string, string> = {}, name = 'orders.yaml') {
  const file = join(folder, name)
  writeFileSync(file, text)
  const { config, problems } = loadInstance(file, env)
  return { config, problems: problems.map((p) => formatProblem(p).replace(`${folder}/`, '')) }
}
function server(text: string, env: Record<string, string> = {}) {
  const file = join(folder, 'server.yaml')
  writeFileSync(file, text)
  const { config, problems } = loadServer(file, env)
  return { config, problems: problems.map((p) => formatProblem(p).replace(`${folder}/`, '')) }
}

describe('problems', () => {
  test('are all reported at once, each with line, column, key, expected and found', () => {
    const { problems } = instance(
      [
        'source:',
        '  host: ${HOST:-db1}',
        '  port: ${PORT}',
        '  pasword: hunter2',
        '  password: 12345',
        '  tls: {mode: requird}',
        'start: {fil: 3}',
        'windowBytes: 32MB',
        'retry:',
        '  minMs: 5 seconds',
        'gtid: ${G}',
        'catchUpReaders: -1',
        'filter:',
        '  columns:',
        '    include: {shop.users: [id, 7]}',
        '    exclude: ["shop.users:id", 7]',
      ].join('\n'),
      { PORT: 'abc' },
    )
    expect(problems).toEqual([
      'orders.yaml:3:9: source.port: expected a TCP port, 1 to 65535, found the value of ${PORT}',
      'orders.yaml:4:3: source.pasword: unknown key; did you mean "password"?',
      'orders.yaml:5:13: source.password: expected a password as text (put digits in quotes), found a number',
      'orders.yaml:6:15: source.tls.mode: expected one of disabled, preferred, required, verify-ca, verify-identity, found "requird"',
      'orders.yaml:7:8: start: expected latest, earliest, {file: binlog.000123, offset: 4}, {gtids: "uuid:1-99"} or {timestamp: 2026-01-31T12:00:00Z}, found a mapping with fil',
      'orders.yaml:8:14: windowBytes: expected a size from 1MiB to 64GiB, as a number of bytes or like 32MiB, found "32MB"',
      'orders.yaml:10:10: retry.minMs: expected a time from 10ms to 10m, as a number of milliseconds or like 5s, found "5 seconds"',
      'orders.yaml:11:7: gtid: the environment variable G is not set; set it, or write ${G:-default}',
      'orders.yaml:12:17: catchUpReaders: expected a number of readers, 1 to 64, found -1',
      'orders.yaml:15:14: filter.columns.include: expected database.table:column/column items as text or a list of texts, found a mapping with shop.users',
      'orders.yaml:16:14: filter.columns.exclude: expected database.table:column/column items as text or a list of texts, found the list ["shop.users:id",7]',
    ])
  })
  test('never show a secret', () => {
    const { problems } = server('canal:\n  user: 1\n  password: [s3cret]\n  passwordHash: s3cret\n')
    expect(problems).toHaveLength(3)
    expect(problems.join()).not.toContain('s3cret')
  })
  test('are thrown together as CONFIG_INVALID', () => {
    const file = join(folder, 'two.yaml')
    writeFileSync(file, 'a: 1\nb: 2\n')
    expect(() => orThrow(loadInstance(file, {}))).toThrow(
      /^the configuration has 2 problems:\n.*two\.yaml:1:1: a: unknown key.*\n.*two\.yaml:2:1: b: unknown/,
    )
  })
  test('of YAML itself carry their place', () => {
    expect(instance('source:\n\thost: x').problems[0]).toMatch(
      /^orders\.yaml:2:1: not valid YAML: /,
    )
    expect(instance('gtid: true\ngtid: false').problems[0]).toMatch(
      /^orders\.yaml:2:1: not valid YAML: .*unique/,
    )
    expect(instance('a: 1\n---\nb: 2').problems[0]).toMatch(/not valid YAML/)
    expect(instance('- 1').problems[0]).toBe(
      'orders.yaml:1:1: expected a mapping of keys, found the list [1]',
    )
  })
  test('of a file that cannot be read', () => {
    const { problems } = loadInstance(join(folder, 'nowhere.yaml'), {})
    expect(problems[0]?.message).toMatch(/^cannot be read: ENOENT/)
    expect(loadServer(join(folder, 'nowhere.yaml'), {}).config).toBeUndefined()
  })
  test('between keys', () => {
    expect(server('canal: {user: u}').problems).toEqual([
      'server.yaml:1:15: canal.user: a user without a password: expected canal.password or canal.passwordHash as well',
    ])
    expect(server('canal: {password: p}').problems[0]).toContain('a password without a user')
    expect(
      server(`canal: {user: u, password: p, passwordHash: '${'0'.repeat(40)}'}`).problems[0],
    ).toContain('found both')
    expect(instance('source: {tls: {cert: /dev/null}}').problems[0]).toContain(
      'cert and key together',
    )
    expect(instance('retry: {minMs: 2s, maxMs: 1s}').problems[0]).toContain(
      'expected at least retry.minMs (2000), found 1000',
    )
    expect(instance('windowBytes: 1MiB\npartBytes: 1MiB').problems[0]).toContain(
      'at most half of windowBytes',
    )
  })
  test('that only a later stage can see carry their place too', () => {
    const { problems } = instance(
      'timezone: Mars/Base\nfilter:\n  include: "shop\\\\.(a"\nstart: {gtids: nonsense}',
    )
    expect(problems.map((p) => p.slice(0, p.indexOf(':', 17)))).toEqual([
      'orders.yaml:1:11: timezone',
      'orders.yaml:3:12: filter.include',
      'orders.yaml:4:16: start.gtids',
    ])
  })
  test('of certificate files are found before anything starts', () => {
    writeFileSync(join(folder, 'not.pem'), 'hello')
    const { problems } = server('canal:\n  tls:\n    cert: nope.pem\n    key: not.pem\n')
    expect(problems[0]).toMatch(
      /^server\.yaml:3:11: canal\.tls\.cert: expected a readable file: ENOENT/,
    )
    expect(problems[1]).toMatch(/^server\.yaml:4:10: canal\.tls\.key: expected a PEM file/)
  })
  test('of a file name that is no destination', () => {
    expect(instance('', {}, 'my orders.yaml').problems[0]).toContain(
      'expected a file name of letters, digits',
    )
  })
  test('an alias that contains itself ends', () => {
    expect(instance('filter: &a\n  columns: *a').problems.join()).toContain('contains itself')
  })
  test('any text gives a configuration or problems, never an exception', () => {
    const texts = fc.oneof(
      fc.string(),
      fc.object({ maxDepth: 3 }).map((o) => JSON.stringify(o)),
      fc
        .constantFrom('source: ', 'filter: ', 'retry: ', 'start: ')
        .chain((k) => fc.json().map((j) => k + j)),
    )
    fc.assert(
      fc.property(texts, (text) => {
        const { config, problems } = instance(text)
        expect(config === undefined).toBe(problems.length > 0)
      }),
    )
  })
})

describe('values', () => {
  test('sizes and times take units', () => {
    const { config } = instance(
      'windowBytes: 1.5 GiB\npartBytes: 65536\nretry: {minMs: 250, maxMs: 2m}',
    )
    expect(config).toMatchObject({
      windowBytes: 1.5 * 1024 ** 3,
      partBytes: 65_536,
      retry: { minMs: 250, maxMs: 120_000 },
    })
  })
  test('substituted values take the type the key needs, and stay text where text is needed', () => {
    const env = { P: '3307', PW: '0123', G: 'true', N: '', W: '64MiB' }
    const { config } = instance(
      'source: {port: "${P}", password: "${PW}", host: "${N:-db}-${P}"}\ngtid: ${G}\nwindowBytes: ${W}\ntimezone: ${N}',
      env,
    )
    expect(config?.source).toMatchObject({ port: 3307, password: '0123', host: 'db-3307' })
    expect(config).toMatchObject({ gtid: true, windowBytes: 64 * 1024 ** 2 })
    expect(config?.timezone).toBeUndefined()
  })
  test('$${…} stays ${…}', () => {
    expect(instance('source: {password: "$${A}"}').config?.source.password).toBe('${A}')
  })
  test('a bad substitution is a problem', () => {
    expect(instance('source: {password: "${A-B}"}').problems[0]).toContain(
      'expected ${NAME} or ${NAME:-default}',
    )
  })
  test('paths count from the file', () => {
    const { config } = server('dataDir: state\ninstancesDir: /etc/sluice')
    expect(config).toMatchObject({ dataDir: join(folder, 'state'), instancesDir: '/etc/sluice' })
  })
  test('start takes its four forms', () => {
    expect(instance('start: earliest').config?.start).toBe('earliest')
    expect(instance('start: {file: binlog.000007}').config?.start).toEqual({
      file: 'binlog.000007',
      offset: 4,
    })
    expect(
      instance('start: {gtids: "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5"}').config?.start,
    ).toHaveProperty('gtids')
    expect(instance('').config?.start).toBe('latest')
  })
  test('a time has its zone, or is milliseconds', () => {
    const time = (text: string): unknown => instance(`start: {timestamp: ${text}}`).config?.start
    const wanted = { timestamp: Date.UTC(2026, 0, 31, 12) }
    expect(time('2026-01-31T12:00:00Z')).toEqual(wanted)
    expect(time("'2026-01-31 13:00:00 +01:00'")).toEqual(wanted)
    expect(time(String(wanted.timestamp))).toEqual(wanted)
    expect(time('2026-01-31T12:00:00')).toBeUndefined()
    expect(time('yesterday')).toBeUndefined()
  })
  test('the places of nested values are their own', () => {
    const yaml = new YamlFile('f', 'a:\n  b:\n    - x\n    - y: 1\n', {})
    yaml.problem(['a', 'b', 1, 'y'], 'here')
    yaml.problem(['a', 'missing'], 'parent')
    expect(yaml.problems.map((p) => [p.line, p.column])).toEqual([
      [4, 10],
      [1, 1],
    ])
  })
  test('a slip finds its key', () => {
    expect(nearest('windwoBytes', ['windowBytes', 'partBytes'])).toBe('windowBytes')
    expect(nearest('PORT', ['host', 'port'])).toBe('port')
    expect(nearest('zzz', ['host', 'port'])).toBeUndefined()
  })
})

const plain = (value: unknown): string =>
  value === null || value === undefined || value === ''
    ? ''
    : JSON.stringify(value).replaceAll('"', '')

describe('shipped files', () => {
  const shipped: [string, z.ZodType][] = [
    ['conf/server.yaml', serverSchema],
    ['instances/example.yaml', instanceSchema],
  ]
  test.each(shipped)('%s lists every key with its default', (file, schema) => {
    const text = readFileSync(file, 'utf8')
    const document = parseDocument(text)
    expect(document.errors).toEqual([])
    for (const key of listKeys(schema)) {
      const path = key.path.split('.')
      expect(document.hasIn(path), `${key.path} is missing in ${file}`).toBe(true)
      if (key.section) continue
      const node = document.getIn(path) as unknown
      const written =
        node && typeof node === 'object' ? (node as { toJSON(): unknown }).toJSON() : node
      const value =
        typeof written === 'string' ? written.replace(/^\$\{\w+:-(.*)\}$/, '$1') : written
      expect(plain(value), `${key.path} in ${file}`).toBe(plain(key.default))
    }
  })
  test.each(shipped)(
    '%s loads to nothing but defaults, with a comment on every key',
    (file, schema) => {
      const loaded = file.startsWith('conf') ? loadServer(file, {}) : loadInstance(file, {})
      expect(loaded.problems).toEqual([])
      const defaults = schema.parse({}) as Record<string, unknown>
      const {
        dataDir: _d,
        instancesDir: _i,
        ...rest
      } = loaded.config as unknown as Record<string, unknown>
      const { dataDir: _e, instancesDir: _j, ...expected } = defaults
      expect(rest).toEqual(expected)
      for (const line of readFileSync(file, 'utf8').split('\n')) {
        const section =
          /^\s*(canal|admin|log|source|failover|filter|retry|columns|start|tls):/.test(line)
        if (line.trim() && !section) expect(line).toContain('#')
      }
    },
  )
  test('the JSON Schemas in conf/ are what `sluice schema` writes', () => {
    for (const [name, text] of Object.entries(schemaFiles())) {
      expect(readFileSync(join('conf', name), 'utf8')).toBe(text)
    }
  })
  test('docs/config.md has exactly the keys, defaults and descriptions of the schemas', () => {
    const row = (k: ReturnType<typeof listKeys>[number]): string => {
      const value = k.default === undefined ? '' : `\`${JSON.stringify(k.default)}\``
      return `| \`${k.path}\` | ${value} | ${k.description.replaceAll('|', '\\|')} |`
    }
    const expected = [...listKeys(serverSchema), ...listKeys(instanceSchema)].map(row)
    const found = readFileSync('docs/config.md', 'utf8')
      .split('\n')
      .filter((line) => /^\| `[^`]+` \| .* ?\| .* \|$/.test(line))
    expect(found).toEqual(expected)
  })
  test('instance files are found by name, hidden and foreign files are not', () => {
    const inside = mkdtempSync(join(folder, 'i'))
    for (const name of ['b.yaml', 'a.yml', '.c.yaml', 'd.yaml~', 'e.txt'])
      writeFileSync(join(inside, name), '')
    expect([...instanceFiles(inside).keys()]).toEqual(['a', 'b'])
    expect(() => instanceFiles(join(inside, 'none'))).toThrow(/cannot list the instances folder/)
  })
})
