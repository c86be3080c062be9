/** Runs the real command as a process, and gathers what it prints. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { vi } from 'vitest'
import { stringify } from 'yaml'
import { run as runHere } from '../../src/cli.ts'

export interface Result {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}
export interface Running {
  readonly child: ChildProcess
  readonly result: Promise<Result>
  /** Resolves when standard output contains `text`; rejects when the process ends first. */
  printed(text: string): Promise<void>
}
const root = join(import.meta.dirname, '../..')

export function start(
  args: readonly string[],
  env: Record<string, string> = {},
  launcher?: string, // a Node that runs bin/sluice.js, instead of ours that runs src/main.ts
): Running {
  const script = join(root, launcher ? 'bin/sluice.js' : 'src/main.ts')
  const child = spawn(launcher ?? process.execPath, [script, ...args], {
    env: { ...process.env, NO_COLOR: '', ...env },
  })
  let stdout = ''
  let stderr = ''
  const waiting = new Set<() => void>()
  const wake = (): void => waiting.forEach((w) => w())
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    wake()
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const { promise: result, resolve } = Promise.withResolvers<Result>()
  let ended = false
  child.on('close', (code) => {
    ended = true
    resolve({ code, stdout, stderr })
    wake()
  })
  const printed = (text: string): Promise<void> =>
    new Promise((done, fail) => {
      const look = (): void => {
        if (!stdout.includes(text) && !ended) return
        waiting.delete(look)
        if (stdout.includes(text)) done()
        else fail(new Error(`the process ended without printing "${text}":\n${stdout}\n${stderr}`))
      }
      waiting.add(look)
      look()
    })
  return { child, result, printed }
}
export const run = (...args: string[]): Promise<Result> => start(args).result

/** The same without a process of its own: for commands that print by console and end. */
export async function inProcess(
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Result> {
  const out: string[] = []
  const errors: string[] = []
  const spies = [
    vi.spyOn(console, 'log').mockImplementation((line: string) => void out.push(line)),
    vi.spyOn(console, 'error').mockImplementation((line: string) => void errors.push(line)),
  ]
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  try {
    const code = await runHere(args)
    return { code, stdout: out.join('\n'), stderr: errors.join('\n') }
  } finally {
    for (const spy of spies) spy.mockRestore()
    vi.unstubAllEnvs()
  }
}

/** A folder with conf/server.yaml and instance files, removed at the end. */
export function checkout(instances: Record<string, object | string>, server: object = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-cli-'))
  const config = join(dir, 'conf', 'server.yaml')
  mkdirSync(join(dir, 'conf'))
  mkdirSync(join(dir, 'instances'))
  writeFileSync(config, stringify({ canal: { port: 0 }, ...server }))
  const file = (name: string): string => join(dir, 'instances', `${name}.yaml`)
  const write = (name: string, content: object | string): void => {
    writeFileSync(file(name), typeof content === 'string' ? content : stringify(content))
  }
  for (const [name, content] of Object.entries(instances)) write(name, content)
  return {
    dir,
    config,
    file,
    write,
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  }
}
