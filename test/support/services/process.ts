/**
 * The life of one server process on a port and in a folder of its own. Guarantees that nothing of it outlives us,
 * however we end: a watching shell holds the read end of a pipe from us, and when the pipe closes it kills the server
 * and removes its folder. Knows nothing about any particular server: how it is called and what it says when it is ready
 * come from the caller.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
} from 'node:fs'
import { rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** Somebody else's ids, for a server that refuses to run as root. */
export interface User {
  readonly uid: number
  readonly gid: number
}

/** Where a server lives: a temporary folder of its own, its port, the file of what it says. */
export interface Place {
  readonly dir: string
  readonly port: number
  readonly log: string
}

export interface Program {
  /** Where it comes from, for messages. */
  readonly from: string
  readonly command: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  readonly user?: User | undefined
  /** What it says when it can be used. Without it, `start` returns when the process runs. */
  readonly ready?: RegExp
  /** How it is told to stop in an orderly way, and how to end it for good. */
  readonly signals?: { readonly stop: NodeJS.Signals; readonly end: NodeJS.Signals }
}

export interface ServerProcess {
  readonly port: number
  /** Its folder; none when it runs in Docker. */
  readonly dir: string | undefined
  /** Starts it. Throws with the end of its log when it ends before it is ready. */
  start(): Promise<void>
  /** Why it is not running any more, with the end of its log; nothing while it runs. */
  ended(): Promise<string | undefined>
  /** What it wrote to its log since its last start. */
  said(): string
  stop(): Promise<void>
  kill(): Promise<void>
  dispose(): Promise<void>
}

const READY_MS = 180_000
const STOP_MS = 20_000

/** A process on a free port, not started yet. `prepare` fills its folder and says what to run. */
export async function createLocal(
  name: string,
  prepare: (place: Place) => Program | Promise<Program>,
): Promise<ServerProcess> {
  const dir = mkdtempSync(join(tmpdir(), `sluice-${name}-`))
  const place = { dir, port: await freePort(), log: join(dir, 'log') }
  let program: Program
  try {
    program = await prepare(place)
  } catch (error) {
    await rm(dir, { recursive: true, force: true })
    throw error
  }
  return new LocalProcess(place, program)
}

class LocalProcess implements ServerProcess {
  readonly port: number
  readonly dir: string
  readonly #log: string
  readonly #program: Program
  readonly #cleanUp: () => Promise<void>
  #child: ChildProcess | undefined
  #logStart = 0

  constructor({ dir, port, log }: Place, program: Program) {
    this.port = port
    this.dir = dir
    this.#log = log
    this.#program = program
    const signal = (program.signals?.end ?? 'SIGKILL').replace('SIG', '')
    this.#cleanUp = watch(
      `if [ -s "$0/pid" ]; then
         pid=$(cat "$0/pid"); kill -${signal} $pid
         for i in 1 2 3 4 5 6 7 8 9; do kill -0 $pid || break; sleep 0.2; done
       fi
       rm -rf "$0" || { sleep 1; rm -rf "$0"; }`,
      dir,
    )
  }

  async start(): Promise<void> {
    this.#logStart = sizeOf(this.#log)
    // the shell replaces itself by the server, so that the watcher knows its pid before it runs
    const shell = ['sh', '-c', 'echo $$ > "$0/pid"; exec "$@"', this.dir]
    const child = launch([...shell, ...this.#program.command], this.#program, this.#log)
    this.#child = child
    child.once('exit', () => rmSync(join(this.dir, 'pid'), { force: true }))
    await once(child, 'spawn')
    const { ready } = this.#program
    if (!ready) return
    const deadline = Date.now() + READY_MS
    while (!ready.test(this.said())) {
      const ended = await this.ended()
      if (ended) throw new Error(ended)
      if (Date.now() > deadline)
        throw new Error(`${this.#program.from} did not say ${ready}:\n${this.#tail()}`)
      await sleep(20)
    }
  }

  async ended(): Promise<string | undefined> {
    if (this.#running()) return undefined
    const how = this.#child?.exitCode ?? this.#child?.signalCode
    return `${this.#program.from} ended (${how}):\n${this.#tail()}`
  }

  said(): string {
    const length = sizeOf(this.#log) - this.#logStart
    if (length <= 0) return ''
    const bytes = Buffer.alloc(length)
    const file = openSync(this.#log, 'r')
    const read = readSync(file, bytes, 0, length, this.#logStart)
    closeSync(file)
    return bytes.toString('utf8', 0, read)
  }

  stop(): Promise<void> {
    return this.#end(this.#program.signals?.stop ?? 'SIGTERM')
  }
  kill(): Promise<void> {
    return this.#end('SIGKILL')
  }
  async dispose(): Promise<void> {
    await this.#end(this.#program.signals?.end ?? 'SIGKILL')
    await this.#cleanUp()
  }

  #running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && !this.#child.signalCode
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (!child || !this.#running()) return
    const exit = once(child, 'exit')
    child.ref()
    child.kill(signal)
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_MS)
    await exit
    clearTimeout(late)
  }

  #tail(): string {
    if (!existsSync(this.#log)) return '(no log)'
    return readFileSync(this.#log, 'utf8').split('\n').slice(-20).join('\n')
  }
}

const sizeOf = (file: string): number => statSync(file, { throwIfNoEntry: false })?.size ?? 0

/**
 * Starts the shell that runs `cleanup` (with `subject` as `$0`) when this process is gone. Returns what makes it do so
 * now, and waits for it.
 */
export function watch(cleanup: string, subject: string): () => Promise<void> {
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
  { env = {}, user }: Program,
  log: string,
): ChildProcess {
  const out = openSync(log, 'a')
  const child = spawn(command[0]!, command.slice(1), {
    detached: true,
    stdio: ['ignore', out, out],
    env: { ...process.env, ...env },
    ...user,
  })
  closeSync(out)
  child.unref()
  return child
}

/** Outside the range that the kernel gives to clients, so that the port is still free after a restart of the server. */
export async function freePort(): Promise<number> {
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
