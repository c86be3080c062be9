/**
 * The real Sluice process for whole-process tests, the bench and the demo: writes a configuration into a folder, spawns
 * `sluice serve` on it, waits until the Canal port answers, and can stop or kill it. State stays in the folder, so
 * starting again on the same folder is a restart.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { freePort, watch } from './services/process.ts'

export { freePort } from './services/process.ts'

export interface SluiceOptions {
  /** Holds configuration and state; the caller's to remove. */
  readonly dir: string
  /** destination → the content of its instance file */
  readonly instances: Readonly<Record<string, object>>
  /** More keys for conf/server.yaml. */
  readonly server?: { readonly canal?: object; readonly [key: string]: unknown }
  /** The same port again after a restart; none: a free one. */
  readonly port?: number
}
export interface SluiceProcess {
  readonly process: ChildProcess
  readonly port: number
  /** Everything it has logged, line by line. */
  readonly log: readonly string[]
  /** Resolves with the first log line, past or future, that contains `text`; rejects when the process ends first. */
  logged(text: string): Promise<string>
  /** SIGTERM; resolves with the exit code. */
  stop(): Promise<number | null>
  /** SIGKILL. */
  kill(): Promise<void>
}

const main = join(import.meta.dirname, '../../bin/sluice.js')

/** Writes the configuration files of a Sluice into `dir`. */
export function writeConfig(options: SluiceOptions, port: number): string {
  const { dir, instances, server } = options
  mkdirSync(join(dir, 'conf'), { recursive: true })
  mkdirSync(join(dir, 'instances'), { recursive: true })
  const file = join(dir, 'conf', 'server.yaml')
  writeFileSync(file, stringify({ ...server, canal: { ...server?.canal, port } }))
  for (const [name, content] of Object.entries(instances))
    writeFileSync(join(dir, 'instances', `${name}.yaml`), stringify(content))
  return file
}

/** Starts `sluice serve`. Throws with its log when it ends before the Canal port answers. */
export async function startSluice(options: SluiceOptions): Promise<SluiceProcess> {
  const port = options.port ?? (await freePort())
  const file = writeConfig(options, port)
  const child = spawn(process.execPath, [main, 'serve', '--config', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  outlivedByNone(child, options.dir)
  const log: string[] = []
  const waiting = new Set<() => void>()
  const wake = () => {
    for (const w of waiting) w()
  }
  for (const stream of [child.stdout, child.stderr]) {
    let rest = ''
    stream.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop()!
      log.push(...lines)
      wake()
    })
  }
  const ended = once(child, 'exit').then(wake)
  const over = () => child.exitCode !== null || child.signalCode !== null
  const logged = async (text: string): Promise<string> => {
    for (let from = 0; ;) {
      const found = log.slice(from).find((line) => line.includes(text))
      if (found !== undefined) return found
      if (over())
        throw new Error(
          `sluice ended (${child.exitCode}) without logging "${text}":\n${log.join('\n')}`,
        )
      from = log.length
      await new Promise<void>((resolve) => {
        const w = () => {
          waiting.delete(w)
          resolve()
        }
        waiting.add(w)
      })
    }
  }
  while (!(await answers(port))) {
    if (over())
      throw new Error(`sluice ended (${child.exitCode}) before it listened:\n${log.join('\n')}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const end = async (signal: 'SIGTERM' | 'SIGKILL') => {
    if (!over()) child.kill(signal)
    await ended
  }
  return {
    process: child,
    port,
    log,
    logged,
    async stop() {
      await end('SIGTERM')
      return child.exitCode
    },
    kill: () => end('SIGKILL'),
  }
}

/** However we end: a Sluice that nobody reads any more would retry for ever. */
function outlivedByNone(child: ChildProcess, dir: string): void {
  const file = join(dir, `sluice-${child.pid}.pid`)
  writeFileSync(file, String(child.pid))
  const end = watch('[ -e "$0" ] && kill -9 "$(cat "$0")"', file)
  child.once('exit', () => {
    rmSync(file, { force: true })
    void end()
  })
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
