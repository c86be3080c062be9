/**
 * The life of one MySQL or MariaDB server process, local or in Docker: the arguments that each family wants, and a data
 * directory with our account in it. Knows nothing about connections: the caller says how to tell that it is ready.
 */
import { mkdirSync, mkdtempSync } from 'node:fs'
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { cached, findFile, run } from '../services/fetch.ts'
import { createLocal, freePort, watch, type ServerProcess } from '../services/process.ts'
import type { Family, Installation } from './install.ts'

/** Both on every server we start. */
export const account = { user: 'sluice', password: 'sluice' } as const

export interface MysqlProcess extends ServerProcess {
  /** Where its data and binary logs lie; none when it runs in Docker. */
  readonly dataDir: string | undefined
}

const everywhere = [
  '--log-bin=binlog',
  '--binlog-format=ROW',
  '--binlog-row-image=FULL',
  '--binlog-checksum=CRC32',
  '--performance-schema=OFF',
  '--innodb-buffer-pool-size=64M',
  '--skip-name-resolve',
  '--secure-file-priv=',
  '--local-infile=ON',
  // fast, yet nothing that was committed is lost when the process (not the machine) dies
  '--innodb-flush-log-at-trx-commit=2',
  '--sync-binlog=0',
]
const gtid = ['--gtid-mode=ON', '--enforce-gtid-consistency=ON']

function argsOf(family: Family): readonly string[] {
  switch (family) {
    case 'mysql':
      return [...everywhere, ...gtid, '--binlog-row-metadata=FULL', '--mysqlx=OFF']
    case 'mysql-5.7':
      return [...everywhere, ...gtid]
    case 'mysql-5.6':
      return [...everywhere, ...gtid, '--log-slave-updates']
    case 'mariadb':
      return [
        ...everywhere,
        '--binlog-row-metadata=FULL',
        '--gtid-strict-mode=ON',
        '--log-slave-updates=ON',
      ]
  }
}

/** A server of `installation` on a free port, not started yet. `args` come last and so override everything. */
export function createProcess(
  installation: Installation,
  args: readonly string[],
): Promise<MysqlProcess> {
  return installation.kind === 'docker'
    ? createContainer(installation, args)
    : createOwn(installation, args)
}

type LocalInstallation = Extract<Installation, { kind: 'program' }>

const asUser = process.getuid?.() === 0 ? ['--user=root'] : []

async function createOwn(
  installation: LocalInstallation,
  args: readonly string[],
): Promise<MysqlProcess> {
  const template = await templateOf(installation)
  const own = await createLocal('mysql', async ({ dir, port, log }) => {
    await cp(template, join(dir, 'data'), {
      recursive: true,
      mode: 2 /* share blocks where the file system can */,
    })
    const command = [
      ...programArgs(installation, dir),
      ...argsOf(installation.family),
      `--port=${port}`,
      '--bind-address=127.0.0.1',
      `--server-id=${port}`,
      `--log-error=${log}`,
      ...args,
    ]
    return { from: installation.from, command, env: installation.env }
  })
  return Object.assign(own, { dataDir: join(own.dir!, 'data') })
}

async function createContainer(
  installation: Extract<Installation, { kind: 'docker' }>,
  args: readonly string[],
): Promise<MysqlProcess> {
  const port = await freePort()
  const name = `sluice-test-${process.pid}-${port}`
  const watcher = watch('docker rm -f -v "$0" >/dev/null 2>&1', name)
  let created = false
  return {
    port,
    dir: undefined,
    dataDir: undefined,
    said: () => '',
    async start() {
      if (created) return void (await run('docker', ['start', name]))
      const env = ['-e', `MYSQL_ROOT_PASSWORD=${account.password}`, '-e', 'MYSQL_ROOT_HOST=%']
      const where = ['run', '-d', '--name', name, '-p', `127.0.0.1:${port}:3306`]
      const more = [`--server-id=${port}`, ...args]
      await run('docker', [...where, ...env, installation.image, ...argsOf('mysql'), ...more])
      created = true
    },
    async ended() {
      const state = await run('docker', ['inspect', '-f', '{{.State.Running}}', name])
      if (state.trim() === 'true') return undefined
      return `${installation.from} ended:\n${await run('sh', ['-c', `docker logs --tail 20 ${name} 2>&1`])}`
    },
    stop: async () => void (await run('docker', ['stop', name])),
    kill: async () => void (await run('docker', ['kill', name])),
    dispose: watcher,
  }
}

function programArgs({ command }: LocalInstallation, dir: string): string[] {
  const [program, ...rest] = command
  const first = rest.includes('--no-defaults') ? [] : ['--no-defaults']
  const files = [
    `--datadir=${join(dir, 'data')}`,
    `--tmpdir=${dir}`,
    `--socket=${join(dir, 's.sock')}`,
  ]
  return [program!, ...first, ...rest, ...asUser, ...files, `--pid-file=${join(dir, 'mysqld.pid')}`]
}

/** A data directory that was initialised once, with our account in it; a copy of it starts much faster. */
async function templateOf(installation: LocalInstallation): Promise<string> {
  const name = `data-${installation.stamp}`
  const folder = await cached(
    name,
    `initialising a data directory for ${installation.from}`,
    async (to) => {
      // initialised outside the cache: a mysqld of the distribution may be confined to a few folders
      const dir = mkdtempSync(join(tmpdir(), 'sluice-init-'))
      try {
        await initialise(installation, dir)
        // without spare redo logs: half the size, and the server makes them when it needs them
        const filter = (file: string) => !/ib_redo\d+_tmp$/.test(file)
        await cp(join(dir, 'data'), join(to, 'data'), { recursive: true, filter })
      } finally {
        await rm(dir, { recursive: true, force: true })
      }
    },
  )
  return join(folder, 'data')
}

async function initialise(installation: LocalInstallation, dir: string): Promise<void> {
  const { family, env, share } = installation
  const data = join(dir, 'data')
  const [program, ...args] = programArgs(installation, dir)
  const account = accountSql(family)
  if (family === 'mysql' || family === 'mysql-5.7') {
    mkdirSync(data)
    await writeFile(join(dir, 'init.sql'), account)
    const more = ['--initialize-insecure', '--skip-log-bin', `--init-file=${join(dir, 'init.sql')}`]
    await run(program!, [...args, ...more], { env })
  } else if (family === 'mysql-5.6') {
    // comes with the tables of the system
    await cp(join(share!, '../data/mysql'), data, { recursive: true })
    await run(program!, [...args, '--bootstrap'], { env, input: `FLUSH PRIVILEGES;\n${account}` })
  } else {
    mkdirSync(data)
    const begin = [
      'CREATE DATABASE IF NOT EXISTS mysql;',
      'USE mysql;',
      'SET @auth_root_socket=NULL;',
    ]
    const scripts = await Promise.all(
      mariadbScripts.map((pattern) => readFile(findFile(share!, pattern), 'utf8')),
    )
    const sql = [...begin, 'SET @skip_auth_anonymous=1;', ...scripts, 'FLUSH PRIVILEGES;', account]
    const more = ['--bootstrap', '--log-warnings=0', '--enforce-storage-engine=']
    await run(program!, [...args, ...more, '--max-allowed-packet=8M'], {
      env,
      input: sql.join('\n'),
    })
  }
  await rm(join(data, 'auto.cnf'), { force: true })
}

/** In the order of mariadb-install-db, without the texts of HELP. */
const mariadbScripts = [
  /^(mysql|mariadb)_system_tables\.sql$/,
  /^(mysql|mariadb)_performance_tables\.sql$/,
  /^(mysql|mariadb)_system_tables_data\.sql$/,
  /^maria_add_gis_sp_bootstrap\.sql$/,
  /^(mysql|mariadb)_sys_schema\.sql$/,
]

/** One statement per line, as a bootstrap wants it. */
function accountSql(family: Family): string {
  const { user, password } = account
  const name = `'${user}'@'%'`
  const how = family === 'mysql' ? 'IDENTIFIED WITH caching_sha2_password BY' : 'IDENTIFIED BY'
  return [
    `CREATE USER ${name} ${how} '${password}';`,
    `GRANT ALL PRIVILEGES ON *.* TO ${name} WITH GRANT OPTION;`,
    '',
  ].join('\n')
}
