/**
 * Who may import whom: the order of the flow, kept by a test. A module here is a folder of src/ or a file directly in it.
 * A new module needs a line in `rules`.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'

interface Rule {
  readonly modules: string // of src/, besides itself and the vocabulary
  readonly outside?: string // packages and node: modules
}

/** Anybody may import these; they know only each other. */
const vocabulary = [
  'change',
  'gtid',
  'out',
  'slab',
  'crc',
  'wasm',
  'errors',
  'number',
  'diagnostics',
]
const inProcess =
  'instance counts fleet upstream epoch lookup logger config store sinks sources mysql catalog binlog filter snapshot retained'

const rules: Record<string, Rule> = {
  ...Object.fromEntries(vocabulary.map((name) => [name, { modules: '' }])),
  crc: { modules: '', outside: 'node:zlib' },
  diagnostics: { modules: '', outside: 'node:diagnostics_channel' },
  logger: { modules: '', outside: 'pino' },
  pattern: { modules: '' },
  protobuf: { modules: '' },
  mysql: { modules: '', outside: 'mysql2 node:net' },
  binlog: { modules: '', outside: 'node:zlib' },
  filter: { modules: 'pattern' },
  catalog: { modules: 'binlog filter' },
  sources: {
    modules: 'mysql binlog catalog filter',
    outside:
      'node:crypto node:fs/promises node:module node:path node:stream node:worker_threads node:zlib',
  },
  store: { modules: '', outside: 'node:fs node:path node:sqlite node:timers/promises' },
  retained: {
    modules: 'store sources binlog filter',
    outside: 'node:fs node:fs/promises node:path node:timers/promises node:util node:zlib',
  },
  snapshot: {
    modules: 'store sources catalog mysql filter',
    outside: 'node:fs node:path node:sqlite node:timers/promises',
  },
  server: {
    modules: 'store filter protobuf',
    outside: 'node:crypto node:net node:tls node:timers/promises',
  },
  sinks: {
    modules: 'store filter logger server protobuf config catalog',
    outside: 'node:* zod kafkajs @platformatic/kafka ioredis @elastic/transport mysql2 pg',
  },
  client: { modules: 'server protobuf', outside: 'node:*' },
  config: { modules: 'binlog filter sinks', outside: 'zod yaml node:fs node:path' },
  lookup: { modules: 'mysql' },
  epoch: { modules: 'config store' },
  upstream: {
    modules: 'config store sources mysql epoch catalog binlog filter logger lookup',
    outside: 'node:fs node:zlib',
  },
  verify: {
    modules: 'sinks sources snapshot catalog mysql filter lookup upstream store binlog logger',
    outside: 'node:*',
  },
  metrics: { modules: '' },
  counts: { modules: '' },
  shown: { modules: '' },
  web: {
    modules: `${inProcess} server metrics shown commands`,
    outside: 'node:crypto node:fs node:http node:https node:net node:path node:tls yaml zod',
  },
  instance: { modules: inProcess, outside: 'node:*' },
  fleet: { modules: inProcess, outside: 'node:*' },
  embed: { modules: inProcess, outside: 'node:* yaml zod' },
  migrate: { modules: `${inProcess} verify commands`, outside: 'node:* yaml' },
  commands: {
    modules: `${inProcess} server cli client shown web verify migrate`,
    outside: 'node:* pino @vlasky/zongji yaml',
  },
  cli: { modules: 'config commands', outside: 'node:*' },
  main: { modules: `${inProcess} server cli commands`, outside: 'node:*' },
}
/** Files that may be known where the rest of their folder may not. */
const narrower: Record<string, readonly string[]> = {
  'verify → binlog': ['binlog/time.ts'],
  'web → commands': ['commands/common.ts', 'commands/steer/position.ts'],
  'migrate → commands': ['commands/check/probes.ts'],
  'client → server': ['server/wire.ts', 'server/entries.ts'],
  'config → binlog': ['binlog/time.ts'],
  'server → store': ['store/store.ts', 'store/cursor.ts'],
  'sinks → store': ['store/store.ts', 'store/cursor.ts', 'store/state.ts'],
  'sinks → server': [
    'server/entry.ts',
    'server/wire.ts',
    'server/columns.ts',
    'server/rows/kernel.ts',
  ],
  'config → sinks': [
    'sinks/index.ts',
    'sinks/kafka/options.ts',
    'sinks/runner/options.ts',
    'sinks/shape/template.ts',
  ],
  'sinks → config': ['config/leaves.ts'],
  'sinks → catalog': [
    'catalog/ddl/classify.ts',
    'catalog/ddl/rewrites.ts',
    'catalog/ddl/tokens.ts',
  ],
}

const root = new URL('../src/', import.meta.url).pathname
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .sort()
const moduleOf = (file: string): string => file.split('/')[0]!.replace(/\.ts$/, '')

interface Import {
  readonly file: string
  readonly target: string // a file of src/, or the name of a package
  readonly lazy: boolean // import() when it is needed
}
const imports: Import[] = files.flatMap((file) => {
  const text = readFileSync(join(root, file), 'utf8')
  const found = text.matchAll(
    /^(?:import|export|\})(?:[^'\n]*? from)? '([^']+)'|\bimport\('([^']+)'\)/gm,
  )
  return [...found].map(([, fixed, lazy]) => {
    const name = fixed ?? lazy!
    const target = name.startsWith('.') ? join(dirname(file), name) : name
    return { file, target, lazy: fixed === undefined }
  })
})
const within = (list: string, name: string): boolean =>
  list
    .split(' ')
    .some((item) => item === name || (item.endsWith(':*') && name.startsWith(item.slice(0, -1))))

/** Why an import is not allowed; "" when it is. */
function fault({ file, target }: Import): string {
  const from = moduleOf(file)
  const rule = rules[from]
  if (!rule) return `${from} has no rule`
  if (!files.includes(target)) {
    return within(rule.outside ?? '', target) ? '' : `${file} imports ${target}`
  }
  const to = moduleOf(target)
  if (to === from || vocabulary.includes(to)) return ''
  const only = narrower[`${from} → ${to}`]
  return within(rule.modules, to) && (only?.includes(target) ?? true)
    ? ''
    : `${file} imports ${target}`
}

describe('architecture', () => {
  it('has imports to check', () => {
    expect(imports.length).toBeGreaterThan(100)
  })
  it('lets every module import only what stands before it in the flow', () => {
    expect(imports.map(fault).filter((text) => text !== '')).toEqual([])
  })
  it('has no cycles', () => {
    const cycles: string[] = []
    const done = new Set<string>()
    const visit = (file: string, path: readonly string[]): void => {
      const at = path.indexOf(file)
      if (at >= 0) cycles.push([...path.slice(at), file].join(' → '))
      if (at >= 0 || done.has(file)) return
      for (const i of imports) if (i.file === file && !i.lazy) visit(i.target, [...path, file])
      done.add(file)
    }
    for (const file of files) visit(file, [])
    expect(cycles).toEqual([])
  })
  it('would notice', () => {
    const bad: [file: string, target: string][] = [
      ['server/wire.ts', 'mysql/connection.ts'],
      ['client.ts', 'server/session.ts'],
      ['binlog/time.ts', 'node:fs'],
      ['store/store.ts', './somewhere-else'],
      ['unheard-of.ts', 'change.ts'],
    ]
    const faults = bad.map(([file, target]) => fault({ file, target, lazy: false }))
    expect(faults.filter((text) => text !== '')).toHaveLength(bad.length)
  })
})
