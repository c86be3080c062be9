/**
 * The life of one MySQL server process on a port of its own, local or in Docker. Guarantees that nothing of it outlives
 * us, however we end: a watching shell holds the read end of a pipe from us, and when the pipe closes it kills the
 * server and removes its folder. Knows nothing about connections: the caller says how to tell that it is ready.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readFileSync,
  rmSync,
} from 'node:fs'
import { cp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { cached, run } from './fetch.ts'
import type { Installation } from './install.ts'

/** Both on every server we start. */
export const account = { user: 'sluice', password: 'sluice' } as const

export interface ServerProcess {
  readonly port: number
  /** Where its data and binary logs lie; none when it runs in Docker. */
  readonly dataDir: string | undefined
  /** Starts it; it may need a while until it answers. */
  start(): Promise<void>
  /** Why it is not running any more, with the end of its log; nothing while it runs. */
  ended(): Promise<string | undefined>
  stop(): Promise<void>
  kill(): Promise<void>
  dispose(): Promise<void>
}

const common = [
  '--log-bin=binlog',
  '--binlog-format=ROW',
  '--binlog-row-image=FULL',
  '--binlog-row-metadata=FULL',
  '--binlog-checksum=CRC32',
  '--gtid-mode=ON',
  '--enforce-gtid-consistency=ON',
  '--mysqlx=OFF',
  '--performance-schema=OFF',
  '--innodb-buffer-pool-size=64M',
  '--skip-name-resolve',
  '--secure-file-priv=',
  '--local-infile=ON',
  // fast, yet nothing that was committed is lost when the process (not the machine) dies
  '--innodb-flush-log-at-trx-commit=2',
  '--sync-binlog=0',
]

/** A server of `installation` on a free port, not started yet. `args` come last and so override everything. */
export function createProcess(
  installation: Installation,
  args: readonly string[],
): Promise<ServerProcess> {
  return installation.kind === 'docker'
    ? createContainer(installation, args)
    : createLocal(installation, args)
}

type Program = Extract<Installation, { kind: 'program' }>

const asUser = process.getuid?.() === 0 ? ['--user=root'] : []

async function createLocal(installation: Program, args: readonly string[]): Promise<ServerProcess> {
  const template = await templateOf(installation)
  const dir = mkdtempSync(join(tmpdir(), 'sluice-mysql-'))
  const watcher = watch('[ -s "$0/pid" ] && kill -KILL "$(cat "$0/pid")"; rm -rf "$0"', dir)
  const dataDir = join(dir, 'data')
  await cp(template, dataDir, {
    recursive: true,
    mode: 2 /* share blocks where the file system can */,
  })
  const port = await freePort()
  const log = join(dir, 'error.log')
  const command = [
    ...programArgs(installation, dir),
    ...common,
    `--port=${port}`,
    '--bind-address=127.0.0.1',
    `--server-id=${port}`,
    `--log-error=${log}`,
    ...args,
  ]
  let child: ChildProcess | undefined
  const running = () => child && child.exitCode === null && child.signalCode === null
  const end = async (signal: 'SIGTERM' | 'SIGKILL') => {
    if (!child || !running()) return
    const exit = once(child, 'exit')
    child.ref()
    child.kill(signal)
    await exit
  }
  return {
    port,
    dataDir,
    async start() {
      // the shell replaces itself by the server, so that the watcher knows its pid before it runs
      child = launch(
        ['sh', '-c', 'echo $$ > "$0/pid"; exec "$@"', dir, ...command],
        installation.env,
        log,
      )
      child.once('exit', () => rmSync(join(dir, 'pid'), { force: true }))
      await once(child, 'spawn')
    },
    async ended() {
      if (running()) return undefined
      return `${installation.from} ended (${child?.exitCode ?? child?.signalCode}):\n${tail(log)}`
    },
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    async dispose() {
      await end('SIGKILL')
      await watcher()
    },
  }
}

async function createContainer(
  installation: Extract<Installation, { kind: 'docker' }>,
  args: readonly string[],
): Promise<ServerProcess> {
  const port = await freePort()
  const name = `sluice-test-${process.pid}-${port}`
  const watcher = watch('docker rm -f -v "$0" >/dev/null 2>&1', name)
  let created = false
  return {
    port,
    dataDir: undefined,
    async start() {
      if (created) return void (await run('docker', ['start', name]))
      const env = ['-e', `MYSQL_ROOT_PASSWORD=${account.password}`, '-e', 'MYSQL_ROOT_HOST=%']
      const where = ['run', '-d', '--name', name, '-p', `127.0.0.1:${port}:3306`]
      const more = [`--server-id=${port}`, ...args]
      await run('docker', [...where, ...env, installation.image, ...common, ...more])
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

function programArgs({ command }: Program, dir: string): string[] {
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
async function templateOf(installation: Program): Promise<string> {
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

async function initialise(installation: Program, dir: string): Promise<void> {
  const { user, password } = account
  const sql = [
    `CREATE USER '${user}'@'%' IDENTIFIED WITH caching_sha2_password BY '${password}';`,
    `GRANT ALL ON *.* TO '${user}'@'%' WITH GRANT OPTION;`,
  ]
  await writeFile(join(dir, 'init.sql'), sql.join('\n') + '\n')
  mkdirSync(join(dir, 'data'))
  const [program, ...args] = programArgs(installation, dir)
  const more = ['--initialize-insecure', '--skip-log-bin', `--init-file=${join(dir, 'init.sql')}`]
  await run(program!, [...args, ...more], { env: installation.env })
  await rm(join(dir, 'data/auto.cnf'), { force: true })
}

/**
 * Starts the shell that runs `cleanup` (with `subject` as `$0`) when this process is gone. Returns what makes it do so
 * now, and waits for it.
 */
function watch(cleanup: string, subject: string): () => Promise<void> {
  const script = `while read -r _; do :; done; ${cleanup}`
  const shell = spawn('sh', ['-c', script, subject], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  shell.unref()
  return async () => {
    if (shell.exitCode !== null) return
    const exit = once(shell, 'exit')
    shell.ref()
    shell.stdin.end()
    await exit
  }
}

/** In a process group of its own: an interrupt from the keyboard is ours to handle, not the server's. */
function launch(
  command: readonly string[],
  env: Readonly<Record<string, string>>,
  log: string,
): ChildProcess {
  const out = openSync(log, 'a')
  const child = spawn(command[0]!, command.slice(1), {
    detached: true,
    stdio: ['ignore', out, out],
    env: { ...process.env, ...env },
  })
  closeSync(out)
  child.unref()
  return child
}

function tail(log: string): string {
  return existsSync(log) ? readFileSync(log, 'utf8').split('\n').slice(-20).join('\n') : '(no log)'
}

/** Outside the range that the kernel gives to clients, so that the port is still free after a restart of the server. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.trunc(Math.random() * 12_000)
    const server = createServer()
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true))
    })
    if (!free) continue
    server.close()
    await once(server, 'close')
    return port
  }
}
