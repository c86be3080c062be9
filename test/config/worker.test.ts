/** The file of a worker: the example loads, every problem is found with its place, and the manual has exactly its keys. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { listKeys } from '../../src/config/keys.ts'
import { loadWorker, workerSchema } from '../../src/config/worker.ts'
import { formatProblem } from '../../src/config/yaml.ts'

const folder = mkdtempSync(join(tmpdir(), 'sluice-worker-'))
afterAll(() => rmSync(folder, { recursive: true }))
const head = 'instance: orders\nkafka: {brokers: [k:9092]}\ntopics: [t]\ngroup: g\n'
function problems(yaml: string): string[] {
  const file = join(folder, 'w.yaml')
  writeFileSync(file, yaml)
  return loadWorker(file, {}).problems.map((p) => formatProblem(p).replace(file, 'w.yaml'))
}

describe("a worker's file", () => {
  test('the example that is shipped loads', () => {
    const { config, problems: found } = loadWorker('conf/worker.yaml', {})
    expect(found).toEqual([])
    expect(config).toMatchObject({
      instance: 'orders',
      group: 'shop-cache',
      sink: { type: 'redis' },
    })
  })
  test('has precise problems', () => {
    expect(problems('instance: a b\nkafka: {}\ntopics: []\n')).toEqual([
      expect.stringMatching(/group: expected a consumer group's name .*found nothing/),
      'w.yaml:1:1: sink: expected a mapping with type: one of elasticsearch, http, redis, sql, found nothing',
      'w.yaml:1:11: instance: expected an instance\'s name of up to 100 letters, digits, "-", "_" and ".", found "a b"',
      'w.yaml:2:1: kafka.brokers: expected a list of host:port, found nothing',
      'w.yaml:3:9: topics: expected a list of at least one topic, found the list []',
    ])
    expect(problems(`${head}sink: {type: file}\n`)).toEqual([
      'w.yaml:5:14: sink.type: expected one of elasticsearch, http, redis, sql, found "file"',
    ])
  })
  test('refuses what several writers cannot do', () => {
    const url = 'mysql://u:p@h/d'
    expect(problems(`${head}sink: {type: sql, url: '${url}'}\n`)).toEqual([
      'w.yaml:5:1: sink.fence: expected version, for several workers write at once, found position',
    ])
    expect(problems(`${head}sink: {type: sql, url: '${url}', fence: version}\n`)).toEqual([])
    const redis = (kind: string): string =>
      `${head}sink:\n  type: redis\n  enabled: ${kind !== 'invalidate'}\n  rules:\n    - {kind: ${kind}, key: 'k:{key}'}\n`
    expect(problems(redis('hash'))).toEqual([])
    expect(problems(redis('invalidate'))).toEqual([
      'w.yaml:7:12: sink.enabled: expected true: a worker is there for its sink; found false',
      'w.yaml:9:14: sink.rules[0].kind: expected another kind: a worker cannot ask the source whether a change is visible yet; found invalidate',
    ])
    const tls = head.replace(
      '{brokers: [k:9092]}',
      '{brokers: [k:9092], tls: {enabled: true, cert: /c.pem}}',
    )
    expect(problems(`${tls}sink: {type: http, url: 'http://h/'}\n`)).toEqual([
      expect.stringContaining('kafka.tls: expected cert and key together, found only one of them'),
    ])
  })
  test('docs/workers.md has exactly the keys, defaults and descriptions of the schema', () => {
    const row = (k: ReturnType<typeof listKeys>[number]): string => {
      const value = k.default === undefined ? '' : `\`${JSON.stringify(k.default)}\``
      return `| \`${k.path}\` | ${value} | ${k.description.replaceAll('|', '\\|')} |`
    }
    const found = readFileSync('docs/workers.md', 'utf8').split('## Configuration')[1]!
    const rows = found.split('\n').filter((line) => line.startsWith('| `'))
    expect(rows).toEqual(listKeys(workerSchema).map(row))
  })
})
