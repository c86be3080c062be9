import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import * as z from 'zod'
import { bytes, duration, secret, section, template, text } from '../../src/config/leaves.ts'
import { jsonSchema, listKeys } from '../../src/config/keys.ts'
import { load } from '../../src/config/load.ts'
import { formatProblem } from '../../src/config/yaml.ts'
import {
  commonSchema,
  ownOptions,
  ruleSchema,
  sinksSchema,
} from '../../src/sinks/runner/options.ts'
import { sinkTypes } from '../../src/sinks/index.ts'
import { defineSink, type SinkType } from '../../src/sinks/sink.ts'

const one = defineSink({
  type: 'one',
  summary: 'The first',
  options: z.strictObject({
    url: text('a URL')
      .regex(/^one:\/\//, { error: 'a URL like one://host' })
      .describe('Where'),
    password: secret('a password').optional().describe('Secret'),
    topic: template('a name').prefault('{database}.{table}').describe('Where to'),
    size: bytes('1KiB', '1MiB').prefault('1KiB').describe('Size'),
    after: duration('1s', '1m').prefault('2s').describe('Time'),
  }),
  open: async () => Promise.reject(new Error('not here')),
})
const two = defineSink({
  type: 'two',
  summary: 'The second',
  options: z.strictObject({ port: z.int({ error: 'a port' }).describe('Port') }),
  open: async () => Promise.reject(new Error('not here')),
})
const types = [one, two] as unknown as SinkType[]
const schema = section({ sinks: sinksSchema(types) })
function read(yaml: string, env: Record<string, string> = {}) {
  const { config, problems } = load('f.yaml', yaml, env, schema, (_, c) => c)
  return { config, problems: problems.map(formatProblem) }
}

describe('sinks: of an instance', () => {
  test('are complete: defaults of all sinks and of the type', () => {
    const { config } = read('sinks:\n  a: {type: one, url: one://h, size: 2KiB}\n')
    const a = config!.sinks['a']!
    expect(a).toMatchObject({ type: 'one', url: 'one://h', size: 2048, after: 2000, parallel: 1 })
    expect(a.batch).toEqual(commonSchema.parse({}).batch)
    const own = ownOptions(types[0]!, a)
    expect(Object.keys(own)).toEqual(['url', 'password', 'topic', 'size', 'after'])
    expect(own['topic']).toHaveProperty('text', '{database}.{table}')
  })
  test('have precise problems, and no secret in them', () => {
    const { problems } = read(
      [
        'sinks:',
        '  a: {type: thre}',
        '  b:',
        '    type: one',
        '    url: "http://u:hunter2@host"',
        '    pasword: x',
        '    password: [hunter2]',
        '    topic: "{table"',
        '    parallel: 0',
        '  c: {type: two, port: "${PORT}"}',
        '  d: {type: two, port: "${WRONG}", tables: [{match: x, maks: 1, mask: {a: {hash: {secret: 7}}}}]}',
        '  e: {port: 1}',
      ].join('\n'),
      { PORT: '12', WRONG: 'x' },
    )
    expect(problems).toEqual([
      'f.yaml:2:13: sinks.a.type: expected one of one, two, found "thre"',
      'f.yaml:5:10: sinks.b.url: expected a URL like one://host, found "http://u:***@host"',
      'f.yaml:6:5: sinks.b.pasword: unknown key; did you mean "password"?',
      'f.yaml:7:15: sinks.b.password: expected a password as text (put digits in quotes), found a list',
      'f.yaml:8:12: sinks.b.topic: expected a name, in which {database}, {table}, {key} and columns may stand in braces, found "{table"',
      'f.yaml:9:15: sinks.b.parallel: expected a number of lanes, 1 to 64, found 0',
      'f.yaml:11:24: sinks.d.port: expected a port, found the value of ${WRONG}',
      'f.yaml:11:56: sinks.d.tables[0].maks: unknown key; did you mean "mask"?',
      'f.yaml:11:75: sinks.d.tables[0].mask.a: expected hash, redact, {truncate: 4} or {hash: {secret: …}}, found a mapping with hash',
      'f.yaml:12:3: sinks.e.type: expected one of one, two, found nothing',
    ])
    expect(problems.join()).not.toContain('hunter2')
  })
  test('have a JSON Schema, one form for each type', () => {
    const json = jsonSchema(schema, 'x')
    const forms = (json.properties!['sinks']!.additionalProperties as { oneOf: unknown[] }).oneOf
    expect(forms).toHaveLength(2)
    expect(JSON.stringify(forms)).toContain('"const":"one"')
  })
  test('every type that there is has options with a description, and none that all sinks have', () => {
    const common = Object.keys(commonSchema.shape)
    for (const { type, options } of sinkTypes) {
      for (const [key, option] of Object.entries(options.shape)) {
        expect((option as z.ZodType).description, `${type}.${key}`).toBeTruthy()
        if (key !== 'transactionBytesMax') expect(common, `${type}.${key}`).not.toContain(key)
      }
    }
    expect(new Set(sinkTypes.map((t) => t.type)).size).toBe(sinkTypes.length)
  })
  test('docs/sinks.md has exactly the keys, defaults and descriptions of what all sinks have', () => {
    const rows = (keys: ReturnType<typeof listKeys>, above: string): string[] =>
      keys.map((k) => {
        const value = k.default === undefined ? '' : `\`${JSON.stringify(k.default)}\``
        return `| \`${above}${k.path}\` | ${value} | ${k.description.replaceAll('|', '\\|')} |`
      })
    const found = readFileSync('docs/sinks.md', 'utf8')
      .split('\n')
      .filter((line) => /^\| `[a-zA-Z.[\]]+` \| (`.*`)? \| .* \|$/.test(line))
    expect(found).toEqual([
      ...rows(listKeys(commonSchema), ''),
      ...rows(listKeys(ruleSchema), 'tables[].'),
    ])
  })
})
