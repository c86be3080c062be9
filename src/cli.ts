/**
 * The command line: one table of commands with their options, help and examples; parses, runs one, and turns what it
 * throws into a message and an exit code. The commands themselves live in commands/ and are loaded when they are asked
 * for. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 128+n ended by signal n; a command may have more.
 *
 * Over 500 lines because it is one table, in which one reads what there is.
 */
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { Completed } from './commands/print/completion.ts'
import { DEFAULT_CONFIG } from './config/config.ts'
import { nearest } from './config/keys.ts'
import { DEFAULT_WORKER_CONFIG } from './config/worker.ts'
import { SluiceError } from './errors.ts'

/** What a command gets: its words without options, and its options by name. */
export interface Arguments {
  readonly words: readonly string[]
  text(option: string): string | undefined
  flag(option: string): boolean
  /** A whole number of at least `min`; anything else throws USAGE. */
  number(option: string, min?: number): number | undefined
}
interface Option {
  readonly type: 'string' | 'boolean'
  readonly short?: string
  readonly value?: string // how help shows the value
  readonly help: string
}
interface Command {
  readonly usage: string // after the command's name
  readonly summary: string
  readonly words: readonly [min: number, max: number]
  readonly options: Readonly<Record<string, Option>>
  readonly examples: readonly string[]
  readonly notes?: string
  readonly lasting?: boolean // until it is told to stop
  run(args: Arguments): Promise<number>
}

const help: Option = { type: 'boolean', short: 'h', help: 'this text' }
const config: Option = {
  type: 'string',
  short: 'c',
  value: 'FILE',
  help: `the server's configuration (default ${DEFAULT_CONFIG})`,
}
const json = (what: string): Option => ({ type: 'boolean', help: `${what} as JSON` })

const commands: Readonly<Record<string, Command>> = {
  serve: {
    usage: '[options]',
    summary: 'run the server: read every instance, serve Canal clients',
    words: [0, 0],
    options: { config },
    examples: ['sluice serve', 'sluice serve --config /etc/sluice/server.yaml'],
    notes:
      'Files in the instances folder that are added, edited or removed start, restart or stop that instance.\n' +
      'SIGTERM or SIGINT stops gracefully and exits 0; a second one exits at once.',
    lasting: true,
    run: async (args) => (await import('./commands/serve.ts')).serve(args),
  },
  work: {
    usage: '[options]',
    summary: 'run a worker: write what Sluice wrote to Kafka into one sink',
    words: [0, 0],
    options: {
      config: { ...config, help: `the worker's configuration (default ${DEFAULT_WORKER_CONFIG})` },
    },
    examples: ['sluice work', 'sluice work --config /etc/sluice/search.yaml'],
    notes:
      'Start as many as you like with the same file: Kafka spreads the partitions over them. The topics must have been\n' +
      'written by a kafka sink with format: sluice. SIGTERM or SIGINT stops gracefully and exits 0.',
    lasting: true,
    run: async (args) => (await import('./commands/work.ts')).work(args),
  },
  check: {
    usage: '[destination…] [options]',
    summary: 'validate the configuration and test every source; says how to fix what is wrong',
    words: [0, 1000],
    options: {
      config,
      json: json('findings'),
      'second-opinion': {
        type: 'boolean',
        help: 'also decode the end of the binlog twice, with Sluice and with zongji, and compare',
      },
      events: {
        type: 'string',
        value: 'N',
        help: 'with --second-opinion: at most N row events (default: the last 16 MiB of binlog)',
      },
    },
    examples: ['sluice check', 'sluice check orders --second-opinion --events 5000'],
    notes: 'Exit code 1 when any finding is a failure; warnings alone exit 0.',
    run: async (args) => (await import('./commands/check.ts')).check(args),
  },
  tail: {
    usage: '<destination> [options]',
    summary: 'print the changes of a source as they happen; touches no cursor',
    words: [1, 1],
    options: {
      config,
      from: {
        type: 'string',
        value: 'POSITION',
        help: 'latest (default), earliest, or file:offset',
      },
      filter: {
        type: 'string',
        value: 'REGEX',
        help: "tables to show, Canal's syntax; within the instance's filter",
      },
      limit: { type: 'string', value: 'N', help: 'stop after N rows and statements' },
      json: json('one change per line'),
    },
    examples: [
      'sluice tail orders',
      "sluice tail orders --from earliest --limit 10 --json --filter 'shop\\..*'",
    ],
    lasting: true,
    run: async (args) => (await import('./commands/tail.ts')).tail(args),
  },
  position: {
    usage: '<destination> show | set POSITION | reset [options]',
    summary: 'show or change the saved positions of an instance',
    words: [2, 3],
    options: {
      config,
      client: { type: 'string', value: 'ID', help: 'only this client (default: all of them)' },
      json: json('positions'),
    },
    examples: [
      'sluice position orders show',
      'sluice position orders set binlog.000123:4567 --client 1001',
      'sluice position orders set 2026-01-31T12:00:00Z',
      'sluice position orders reset',
    ],
    notes:
      'While the server runs, set and reset go through its admin.port; else they need it stopped.\n' +
      'reset forgets: the next start begins where the `start` key of the instance file says.',
    run: async (args) => (await import('./commands/steer/position.ts')).position(args),
  },
  sinks: {
    usage: '<destination> list | pause NAME | resume NAME [options]',
    summary: 'show the sinks of an instance, pause one, let one go on',
    words: [2, 3],
    options: { config, json: json('sinks') },
    examples: ['sluice sinks orders list', 'sluice sinks orders pause cache'],
    notes:
      'A running server follows within a second; a pause holds over restarts. resume also lets a sink that has failed try again.',
    run: async (args) => (await import('./commands/steer/sinks.ts')).sinks(args),
  },
  instances: {
    usage: 'list | show DESTINATION | start | stop | restart DESTINATION [options]',
    summary: 'show what instances are doing, start, stop or restart one',
    words: [1, 2],
    options: { config, json: json('instances') },
    examples: ['sluice instances list', 'sluice instances restart orders'],
    notes:
      'Asks the running server through admin.port; without it, list says what the files say. stop holds until start or until\n' +
      'the server is restarted; enabled: false in the file is for good.',
    run: async (args) => (await import('./commands/steer/instances.ts')).instances(args),
  },
  snapshot: {
    usage:
      '<destination> list | start CLIENT | pause | resume | throttle | cancel CLIENT [options]',
    summary: 'load what tables hold already for a client or sink:NAME, while the stream goes on',
    words: [2, 3],
    options: {
      config,
      tables: {
        type: 'string',
        value: 'REGEX',
        help: "with start: tables, Canal's syntax; within the instance's filter (default: all)",
      },
      'rows-per-second': {
        type: 'string',
        value: 'N|auto',
        help: 'with start and throttle: at most so many; 0: as fast as it goes; auto: as the source bears',
      },
      where: { type: 'string', value: 'SQL', help: 'with start: only rows that fulfil it' },
      keys: {
        type: 'string',
        value: 'JSON',
        help: 'with start: exactly these, of one table, like [[1],[2]]; gone: a delete',
      },
      'keys-file': { type: 'string', value: 'FILE', help: 'the same, from a file' },
      json: json('loads'),
    },
    examples: [
      'sluice snapshot orders list',
      "sluice snapshot orders start sink:cache --tables 'shop\\.users'",
      "sluice snapshot orders start sink:cache --tables 'shop\\.users' --keys '[[17],[18]]'",
      'sluice snapshot orders throttle 1001 --rows-per-second 5000',
    ],
    notes:
      'CLIENT is a client id or sink:NAME, as "sluice position" shows them. The running server reads the tables and follows\n' +
      'within a second; where it stands outlives a crash. What start names is read behind what is being read.',
    run: async (args) => (await import('./commands/snapshot/snapshot.ts')).snapshot(args),
  },
  migrate: {
    usage: '--from URL --to URL [options]',
    summary: 'move databases to another MySQL, MariaDB or PostgreSQL while they are written to',
    words: [0, 0],
    options: {
      from: { type: 'string', value: 'URL', help: 'mysql://user@host:port/database' },
      to: {
        type: 'string',
        value: 'URL',
        help: 'mysql://user@host:port or postgres://user@host:port/database',
      },
      databases: {
        type: 'string',
        value: 'A,B',
        help: "these databases (default: the URL's; all)",
      },
      tables: {
        type: 'string',
        value: 'REGEX',
        help: "or these tables: database\\.table in Canal's syntax",
      },
      exclude: { type: 'string', value: 'REGEX', help: 'not these tables' },
      dir: {
        type: 'string',
        value: 'FOLDER',
        help: 'what it remembers (default ./migrate-NAME); with it alone, the migration goes on',
      },
      'dry-run': { type: 'boolean', help: 'print the plan and change nothing' },
      'cut-over': {
        type: 'boolean',
        help: 'cut over as soon as it is in step; or tell the one that runs in --dir to',
      },
      'lock-source': { type: 'boolean', help: 'at the cut-over, make the source read-only' },
      reverse: { type: 'boolean', help: 'after the cut-over, stream back into the source' },
      ddl: { type: 'string', value: 'HOW', help: 'DDL meanwhile: apply (default) or ignore' },
      'remove-nul': { type: 'boolean', help: 'PostgreSQL: leave U+0000 out of texts' },
      'from-password-file': { type: 'string', value: 'FILE', help: 'or SLUICE_FROM_PASSWORD' },
      'to-password-file': { type: 'string', value: 'FILE', help: 'or SLUICE_TO_PASSWORD' },
      json: json('one event per line'),
    },
    examples: [
      'sluice migrate --from mysql://root@old/shop --to mysql://root@new --dry-run',
      'sluice migrate --from mysql://root@old/shop --to postgres://shop@new/shop',
      'sluice migrate --dir migrate-shop --cut-over',
    ],
    notes:
      'Safe to interrupt and to start again: it goes on where it was. Passwords in URLs are seen by others in the list of\n' +
      'processes. Exit codes: 0 cut over, or a plan without failures; 1 failed; 2 usage; 3 stopped before the cut-over;\n' +
      '4 source and target differ, and nothing was cut over.',
    lasting: true,
    run: async (args) => (await import('./commands/migrate.ts')).migrate(args),
  },
  log: {
    usage: '<destination> [options]',
    summary: "show what an instance's retained log has, or check every byte of it",
    words: [1, 1],
    options: {
      config,
      verify: { type: 'boolean', help: 'read all of it; exit code 1 when something is damaged' },
      json: json('segments'),
    },
    examples: ['sluice log orders', 'sluice log orders --verify'],
    notes:
      'Reads the files of the log (changeLog in the instance file), whether the server runs or not.',
    run: async (args) => (await import('./commands/log/log.ts')).log(args),
  },
  replay: {
    usage: '<destination> <sink> --from POSITION [options]',
    summary: "write a stretch of an instance's retained log to a sink once more",
    words: [2, 2],
    options: {
      config,
      from: {
        type: 'string',
        value: 'POSITION',
        help: 'earliest, file:offset, a GTID set or a time with its zone',
      },
      to: { type: 'string', value: 'POSITION', help: 'the same; default: the end of the log' },
      tables: {
        type: 'string',
        value: 'REGEX',
        help: "tables, Canal's syntax; within the filters of instance and sink (default: all)",
      },
      'dry-run': { type: 'boolean', help: 'write nothing: show what a changed file would do' },
      with: { type: 'string', value: 'FILE', help: 'with --dry-run: the changed instance file' },
      differences: {
        type: 'string',
        value: 'N',
        help: 'with --dry-run: show so many of each table (default 5)',
      },
      json: json('the outcome'),
    },
    examples: [
      'sluice replay orders cache --from earliest',
      "sluice replay orders search --from 2026-01-31T12:00:00Z --tables 'shop\\.users'",
      'sluice replay orders search --from earliest --dry-run --with /tmp/orders.yaml',
    ],
    notes:
      'Reads the files of the log (changeLog in the instance file), whether the server runs or not, and asks no source. Changes\n' +
      'keep their versions, so what is newer in the target stays; for redis, elasticsearch, http, and sql with fence: version.\n' +
      'Exit code 1 when it did not come to its end, when rows became dead letters, or, dry, when something differs.',
    run: async (args) => (await import('./commands/log/replay.ts')).replay(args),
  },
  deadletters: {
    usage: '<destination> list | show ID | replay ID… | drop ID… [options]',
    summary: 'show the rows that targets refused, write them again, or drop them',
    words: [2, 1000],
    options: {
      config,
      sink: { type: 'string', value: 'NAME', help: 'only of this sink' },
      all: { type: 'boolean', help: 'with replay and drop: all of them' },
      json: json('dead letters'),
    },
    examples: [
      'sluice deadletters orders list --sink cache',
      'sluice deadletters orders replay 17 18',
      'sluice deadletters orders drop --all',
    ],
    notes:
      'replay needs the server: the sink itself writes the row, with its old version, so that a newer value stays.\n' +
      'Exit code 1 when not all of them were written.',
    run: async (args) => (await import('./commands/steer/sinks.ts')).deadletters(args),
  },
  verify: {
    usage: '<destination> <sink> [options]',
    summary: 'compare the tables of an instance with what a sink has made of them, row by row',
    words: [2, 2],
    options: {
      config,
      tables: { type: 'string', value: 'REGEX', help: "only these tables, Canal's syntax" },
      repair: {
        type: 'boolean',
        help: 'write again what differs, delete what is too much, look again',
      },
      once: { type: 'boolean', help: 'compare once (default)' },
      every: { type: 'string', value: 'SECONDS', help: 'again and again, with a pause between' },
      'rows-per-second': {
        type: 'string',
        value: 'N',
        help: 'read at most so many (default: as fast as it goes)',
      },
      show: {
        type: 'string',
        value: 'N',
        help: 'show at most so many differences (default 100); all are counted',
      },
      report: { type: 'string', value: 'FILE', help: 'write the report as JSON' },
      'metrics-file': { type: 'string', value: 'FILE', help: "write metrics as Prometheus' text" },
      json: json('the report'),
    },
    examples: [
      'sluice verify orders cache',
      "sluice verify orders reporting --tables 'shop\\..*' --repair",
      'sluice verify orders reporting --every 3600 --rows-per-second 5000 --report /var/lib/sluice/verify.json',
    ],
    notes:
      'Exit codes: 0 equal (or all repaired), 1 different, 2 not everything could be compared. Rows that change meanwhile give no\n' +
      'false alarm: what differs is looked at again once the sink has passed that place. Ctrl-C reports what was found so far.',
    lasting: true,
    run: async (args) => (await import('./commands/verify.ts')).verify(args),
  },
  backup: {
    usage: '<folder> [destination…] [options]',
    summary: 'copy the state of instances into a folder, while the server runs',
    words: [1, 1000],
    options: { config, json: json('what was copied') },
    examples: ['sluice backup /backup/sluice', 'sluice backup /backup/sluice orders'],
    run: async (args) => (await import('./commands/steer/backup.ts')).backup(args),
  },
  restore: {
    usage: '<folder> [destination…] [options]',
    summary: 'put copied state back, where no server has it; what is there is kept beside it',
    words: [1, 1000],
    options: { config, json: json('what was restored') },
    examples: ['sluice restore /backup/sluice orders'],
    notes:
      'What was acked after the copy was made comes again. A position that the source has purged since: onPositionLost.',
    run: async (args) => (await import('./commands/steer/backup.ts')).restore(args),
  },
  types: {
    usage: '<destination> [options]',
    summary: 'write TypeScript types of the rows of the tables that an instance reads',
    words: [1, 1],
    options: {
      config,
      out: { type: 'string', value: 'FILE', help: 'where to (default: standard output)' },
      filter: {
        type: 'string',
        value: 'REGEX',
        help: "tables, Canal's syntax; within the instance's filter (default: all)",
      },
      for: {
        type: 'string',
        value: 'USE',
        help: 'embed (default): handlers inside a program; client: rows of the SDK',
      },
    },
    examples: ['sluice types orders --out src/rows.ts', 'sluice types orders --for client'],
    run: async (args) => (await import('./commands/print/types.ts')).types(args),
  },
  schema: {
    usage: '[options]',
    summary: 'write the JSON Schemas of the configuration files, for editors',
    words: [0, 0],
    options: { out: { type: 'string', value: 'FOLDER', help: 'where to (default conf)' } },
    examples: ['sluice schema', 'sluice schema --out /etc/sluice'],
    run: async (args) => (await import('./commands/print/schema.ts')).schema(args),
  },
  'import-canal': {
    usage: '<conf dir> [options]',
    summary: "take over an alibaba/canal: its configuration and its clients' positions",
    words: [1, 1],
    options: {
      out: {
        type: 'string',
        value: 'FOLDER',
        help: 'where conf/, instances/ and data/ are made (default .); nothing is overwritten',
      },
      'dry-run': { type: 'boolean', help: 'only say what would become of every key' },
      'env-secrets': {
        type: 'boolean',
        help: 'write ${SLUICE_<DESTINATION>_PASSWORD} in place of passwords',
      },
      'without-cursors': {
        type: 'boolean',
        help: 'only the configuration: instances begin where their start key says',
      },
      json: json('the outcome'),
    },
    examples: [
      'sluice import-canal /opt/canal/conf --out /etc/sluice --dry-run',
      'sluice import-canal /opt/canal/conf --out /etc/sluice',
    ],
    notes:
      'Stop Canal first: its cursors move while it runs. The sources must be reachable: a cursor of Canal lies inside a\n' +
      'transaction, whose beginning is looked up in the log, so that nothing is lost and at most that transaction repeats.\n' +
      'Exit code 1 when something was refused; then nothing was written.',
    run: async (args) => (await import('./commands/canal/import.ts')).importCanal(args),
  },
  completion: {
    usage: 'bash | zsh | fish',
    summary: 'print a script that completes commands and options in a shell',
    words: [1, 1],
    options: {},
    examples: ['eval "$(sluice completion bash)"'],
    run: async ({ words: [shell] }) => {
      const { completion } = await import('./commands/print/completion.ts')
      process.stdout.write(completion(shell!, Object.entries(commands).map(completed)))
      return 0
    },
  },
  version: {
    usage: '',
    summary: 'print the version',
    words: [0, 0],
    options: { json: json('versions') },
    examples: ['sluice version'],
    run: async (args) => {
      const sluice = version()
      console.log(
        args.flag('json') ? JSON.stringify({ sluice, node: process.versions.node }) : sluice,
      )
      return 0
    },
  },
  help: {
    usage: '[command]',
    summary: 'explain a command',
    words: [0, 1],
    options: {},
    examples: ['sluice help tail'],
    run: async ({ words: [name] }) => {
      console.log(name === undefined ? overview() : describe(name, lookUp(name)))
      return 0
    },
  },
}

/** As a shell completes it; its verbs are the plain words of its usage. */
function completed([name, { summary, usage, options }]: [string, Command]): Completed {
  const choices = usage.includes('|') ? usage.replace(/\[options\]|<\w+>/g, '').split('|') : []
  return {
    name,
    summary,
    options: Object.entries({ ...options, help }).map(([option, o]) => ({
      name: option,
      help: o.help,
      value: o.type === 'string',
    })),
    verbs: choices.flatMap((choice) => choice.match(/[a-z]+/g)?.slice(0, 1) ?? []),
  }
}

/** Runs one command line (without node and script) and returns the exit code. Never throws. */
export async function run(argv: readonly string[]): Promise<number> {
  try {
    const [first, ...rest] = argv
    if (first === undefined) {
      console.error(overview())
      return 2
    }
    if (first === '--help' || first === '-h') return await run(['help'])
    if (first === '--version' || first === '-V') return await run(['version'])
    const command = lookUp(first)
    const args = parse(first, command, rest)
    if (args.flag('help')) {
      console.log(describe(first, command))
      return 0
    }
    const [min, max] = command.words
    const n = args.words.length
    if (n < min || n > max) {
      const found = n === 0 ? 'nothing' : args.words.join(' ')
      throw new SluiceError('USAGE', `expected sluice ${first} ${command.usage}, found ${found}`)
    }
    return await (command.lasting ? command.run(args) : shown(first, command.run(args)))
  } catch (error) {
    return explain(error)
  }
}

const QUIET_MS = 2000
/** Says on a terminal that it goes on, once that has taken a while. */
async function shown<T>(name: string, work: Promise<T>): Promise<T> {
  const begin = Date.now()
  if (!process.stderr.isTTY) return await work
  let said = false
  const timer = setInterval(() => {
    const seconds = Math.round((Date.now() - begin) / 1000)
    if (seconds * 1000 < QUIET_MS) return
    said = true
    process.stderr.write(`\r\u001b[Ksluice ${name}: ${seconds} s …\r`)
  }, 1000)
  try {
    return await work
  } finally {
    clearInterval(timer)
    if (said) process.stderr.write('\r\u001b[K')
  }
}

function lookUp(name: string): Command {
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (command) return command
  const near = nearest(name, Object.keys(commands))
  const hint = near
    ? `did you mean "${near}"?`
    : `expected one of ${Object.keys(commands).join(', ')}`
  throw new SluiceError('USAGE', `unknown command "${name}"; ${hint}`)
}

function parse(name: string, command: Command, argv: string[]): Arguments {
  const options = { ...command.options, help }
  let parsed
  try {
    parsed = parseArgs({ args: argv, options, allowPositionals: true, strict: true })
  } catch (cause) {
    const message = (cause as Error).message
    const word = /'(-[^' ]*)/.exec(message)?.[1]
    const near = word && nearest(word.replace(/^-+/, ''), Object.keys(options))
    const unknown = (cause as NodeJS.ErrnoException).code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION'
    const text = unknown
      ? `unknown option ${word} of sluice ${name}; ${near ? `did you mean --${near}?` : `see sluice help ${name}`}`
      : message
    throw new SluiceError('USAGE', text, { cause })
  }
  const values: Readonly<Record<string, unknown>> = parsed.values
  const text = (option: string): string | undefined => {
    const value = values[option]
    return typeof value === 'string' ? value : undefined
  }
  return {
    words: parsed.positionals,
    text,
    flag: (option) => values[option] === true,
    number: (option, min = 1) => {
      const value = text(option)
      if (value === undefined) return undefined
      const n = /^\d+$/.test(value) ? Number(value) : NaN
      if (Number.isSafeInteger(n) && n >= min) return n
      throw new SluiceError(
        'USAGE',
        `--${option}: expected a whole number of at least ${min}, found "${value}"`,
      )
    },
  }
}

function explain(error: unknown): number {
  if (!(error instanceof SluiceError)) {
    console.error(error instanceof Error ? (error.stack ?? error.message) : String(error))
    return 1
  }
  console.error(`sluice: ${error.message}`)
  if (error.code === 'USAGE') console.error('Try: sluice help')
  return error.code === 'USAGE' ||
    error.code === 'CONFIG_INVALID' ||
    error.code === 'CONFIG_UNREADABLE'
    ? 2
    : 1
}

function overview(): string {
  const width = Math.max(...Object.keys(commands).map((c) => c.length))
  const lines = Object.entries(commands).map(([name, c]) => `  ${name.padEnd(width)}  ${c.summary}`)
  return [
    `Sluice ${version()}: MySQL change data capture for Canal clients`,
    '',
    'Usage: sluice <command> [options]',
    '',
    ...lines,
    '',
    'sluice help <command> explains one. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.',
  ].join('\n')
}

function describe(name: string, command: Command): string {
  const left = ([option, o]: [string, Option]): string =>
    `  ${o.short ? `-${o.short}, ` : '    '}--${option}${o.value ? ` ${o.value}` : ''}`
  const options = Object.entries({ ...command.options, help })
  const width = Math.max(...options.map((o) => left(o).length))
  return [
    `sluice ${name}: ${command.summary}`,
    '',
    `Usage: sluice ${name} ${command.usage}`.trimEnd(),
    '',
    ...options.map((o) => `${left(o).padEnd(width)}  ${o[1].help}`),
    '',
    'Examples:',
    ...command.examples.map((e) => `  ${e}`),
    ...(command.notes ? ['', command.notes] : []),
  ].join('\n')
}

/** The version in package.json. */
export function version(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
