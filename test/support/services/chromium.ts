/**
 * A real Chromium without a window, driven over its debugging protocol: from this machine, else from the Debian packages of
 * this release, which run on this machine's C library. As much of the protocol as the tests of the console need.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { cached, debianProblem, findCommand, unpackDebian } from './fetch.ts'

interface Installed {
  readonly program: string
  readonly env: Readonly<Record<string, string>>
}

async function findChromium(): Promise<Installed> {
  const here = findCommand('chromium') ?? findCommand('google-chrome')
  if (here) return { program: here, env: {} }
  const problem = debianProblem()
  if (problem) throw new Error(`cannot fetch Chromium: ${problem}`)
  const suite = /^VERSION_CODENAME=(\w+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1]
  if (!suite) throw new Error('cannot fetch Chromium: this is no Debian')
  const useless =
    /^(perl|libperl|libdb5|debconf|ucf|adduser|systemd|libsystemd-shared|dbus|udev|mesa-va|libllvm|libz3|libgl1-mesa-dri|xdg-)/
  const folder = await cached(
    'chromium',
    'fetching Chromium (Debian packages, about 120 MB)',
    (to) =>
      unpackDebian(suite, ['chromium', 'fonts-dejavu-core'], to, (name) => !useless.test(name)),
  )
  const architecture = process.arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu'
  const libraries = [
    `usr/lib/${architecture}`,
    `lib/${architecture}`,
    `usr/lib/${architecture}/pulseaudio`,
  ]
  return {
    program: join(folder, 'usr/lib/chromium/chromium'),
    env: {
      LD_LIBRARY_PATH: libraries.map((path) => join(folder, path)).join(':'),
      FONTCONFIG_PATH: join(folder, 'etc/fonts'),
    },
  }
}

/** One page. What the page throws, or the browser refuses because of a policy, is in `complaints`. */
export class Browser implements AsyncDisposable {
  readonly complaints: string[] = []
  /** Addresses of everything that was asked for. */
  readonly requests: string[] = []
  readonly #end: () => Promise<void>
  readonly #socket: WebSocket
  readonly #waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>()
  #id = 0
  #session: string | undefined

  private constructor(socket: WebSocket, end: () => Promise<void>) {
    this.#socket = socket
    this.#end = end
    socket.addEventListener('message', ({ data }) =>
      this.#take(JSON.parse(String(data)) as Message),
    )
  }
  static async start(): Promise<Browser> {
    const { program, env } = await findChromium()
    const dir = mkdtempSync(join(tmpdir(), 'sluice-chromium-'))
    const flags = [
      '--headless=new',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ]
    const child = spawn(
      program,
      [...flags, '--remote-debugging-port=0', `--user-data-dir=${dir}`, 'about:blank'],
      {
        env: { ...process.env, ...env, HOME: dir, XDG_CACHE_HOME: dir },
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    )
    let said = ''
    child.stderr
      .setEncoding('utf8')
      .on('data', (text: string) => (said = (said + text).slice(-5000)))
    const end = async (): Promise<void> => {
      if (child.exitCode === null && child.signalCode === null) {
        const ended = once(child, 'exit')
        child.kill('SIGKILL')
        await ended
      }
      await sleep(100) // its helpers end after it
      rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
    }
    const file = join(dir, 'DevToolsActivePort')
    while (!existsSync(file) || !readFileSync(file, 'utf8').includes('\n')) {
      if (child.exitCode !== null) throw new Error(`Chromium ended (${child.exitCode}):\n${said}`)
      await sleep(50)
    }
    const [port, path] = readFileSync(file, 'utf8').split('\n')
    const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`)
    await once(socket, 'open')
    const browser = new Browser(socket, end)
    const { targetId } = await browser.#send('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await browser.#send('Target.attachToTarget', { targetId, flatten: true })
    browser.#session = sessionId as string
    for (const domain of ['Page', 'Runtime', 'Network', 'Log'])
      await browser.#send(`${domain}.enable`)
    return browser
  }

  async open(url: string): Promise<void> {
    await this.#send('Page.navigate', { url })
    await this.until('document.readyState === "complete"')
  }
  /** The value of an expression in the page; promises are waited for. */
  async run<T>(expression: string): Promise<T> {
    const options = { expression, awaitPromise: true, returnByValue: true, userGesture: true }
    const { result, exceptionDetails } = await this.#send('Runtime.evaluate', options)
    if (exceptionDetails) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`)
    return (result as { value: T }).value
  }
  /** Until an expression is true; the test's own limit ends it. */
  async until(expression: string): Promise<void> {
    while (!(await this.run<unknown>(`Boolean(${expression})`))) await sleep(50)
  }
  /** Presses a key as a person does. */
  async press(key: 'Tab' | 'Enter' | 'Escape'): Promise<void> {
    const codes = { Tab: 9, Enter: 13, Escape: 27 }
    const about = {
      key,
      code: key,
      windowsVirtualKeyCode: codes[key],
      ...(key === 'Enter' && { text: '\r' }),
    }
    await this.#send('Input.dispatchKeyEvent', { type: 'keyDown', ...about })
    await this.#send('Input.dispatchKeyEvent', { type: 'keyUp', ...about })
  }
  async type(text: string): Promise<void> {
    await this.#send('Input.insertText', { text })
  }
  async size(width: number, height: number): Promise<void> {
    await this.#send('Emulation.setDeviceMetricsOverride', {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: width < 600,
    })
  }
  async dark(on: boolean): Promise<void> {
    const features = [{ name: 'prefers-color-scheme', value: on ? 'dark' : 'light' }]
    await this.#send('Emulation.setEmulatedMedia', { features })
  }
  async screenshot(file: string): Promise<void> {
    const { data } = await this.#send('Page.captureScreenshot', {
      format: 'png',
      captureBeyondViewport: true,
    })
    await writeFile(file, Buffer.from(data as string, 'base64'))
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close()
    await this.#end()
  }

  #send(method: string, params: object = {}): Promise<Record<string, unknown>> {
    const id = ++this.#id
    const answer = Promise.withResolvers<Record<string, unknown>>()
    this.#waiting.set(id, answer)
    this.#socket.send(
      JSON.stringify({ id, method, params, ...(this.#session && { sessionId: this.#session }) }),
    )
    return answer.promise
  }
  #take({ id, result, error, method, params }: Message): void {
    if (id !== undefined) {
      const waiting = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error) waiting?.reject(new Error(error.message))
      else waiting?.resolve(result ?? {})
    }
    if (method === 'Network.requestWillBeSent')
      this.requests.push((params as { request: { url: string } }).request.url)
    if (method === 'Runtime.exceptionThrown') this.complaints.push(JSON.stringify(params))
    if (method === 'Log.entryAdded') {
      const { entry } = params as { entry: { level: string; source: string; text: string } }
      if (entry.level === 'error' && entry.source !== 'network') this.complaints.push(entry.text)
    }
  }
}
interface Message {
  readonly id?: number
  readonly result?: Record<string, unknown>
  readonly error?: { readonly message: string }
  readonly method?: string
  readonly params?: unknown
}
