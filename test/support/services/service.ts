/**
 * What a test sees of a server, whatever it is: an address, and for one of its own the power to kill, stop and start it.
 * `given` reads an address of the environment, `startLocal` starts a process.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { createLocal, type Place, type Program, type ServerProcess } from './process.ts'

export interface Address {
  readonly host: string
  readonly port: number
  /** With the account in it where there is one. */
  readonly url: string
  readonly user: string | undefined
  readonly password: string | undefined
}

export interface Service extends Address, AsyncDisposable {
  /** The certificate authority to trust (a PEM file), when it speaks TLS. */
  readonly ca: string | undefined
  /** Its folder; none when it is shared. */
  readonly dir: string | undefined
  /** SIGKILL. Data and port stay for `start`. A shared server refuses this, and the next two. */
  kill(): Promise<void>
  /** Orderly shutdown. Data and port stay for `start`. */
  stop(): Promise<void>
  /** Starts it again on its port and data; resolves when it can be used. */
  start(): Promise<void>
}

/** What is known about a server before it runs. */
export interface Definition<Options extends object, Kind extends Service = Service> {
  readonly name: string
  /** The scheme and the port that an address without them gets. */
  readonly scheme: string
  readonly defaultPort: number
  /** Makes sure that the program is there; says where it comes from. Throws when it cannot be had. */
  fetch(): Promise<string>
  /** A server of one's own. Disposing it, or the end of the process, removes it. */
  start(options?: Options): Promise<Kind>
}

/** Reads `url`, which may also be just `host:port`. */
export function parseAddress(
  text: string,
  { scheme, defaultPort }: { readonly scheme: string; readonly defaultPort: number },
): Address {
  const full = text.includes('://') ? text : `${scheme}://${text}`
  const url = new URL(full)
  return {
    host: url.hostname,
    port: Number(url.port || defaultPort),
    url: full,
    user: decodeURIComponent(url.username) || undefined,
    password: decodeURIComponent(url.password) || undefined,
  }
}

/** The server behind an address that is not ours to stop. */
export function given(address: Address): Service {
  const refuse = (): Promise<never> =>
    Promise.reject(new Error('this server is shared: start a private one to stop it'))
  return {
    ...address,
    ca: undefined,
    dir: undefined,
    kill: refuse,
    stop: refuse,
    start: refuse,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
}

export interface Prepared extends Program {
  readonly url: string
  readonly ca?: string | undefined
  /** Waits for what it does not say: that it really can be used. */
  readonly usable?: () => Promise<void>
  /** Why it may refuse to start for a moment after a kill: what is left of the one before is still ending. */
  readonly notYet?: RegExp
}

/** Starts the process that `prepare` describes, and waits until it says that it is ready, and is. */
export async function startLocal(
  name: string,
  prepare: (place: Place) => Promise<Prepared>,
): Promise<Service> {
  for (let attempt = 1; ; attempt++) {
    let prepared: Prepared | undefined
    const local = await createLocal(name, async (place) => (prepared = await prepare(place)))
    try {
      const service = serviceOf(local, prepared!)
      await service.start()
      return service
    } catch (error) {
      await local.dispose()
      // somebody else was faster to listen on the port
      if (attempt === 3 || !/address (is )?already in use|BindException/i.test(String(error)))
        throw error
    }
  }
}

/** For as long as what is left of a killed one is in the way, ten seconds at most. */
async function startWhenFree(local: ServerProcess, notYet: RegExp | undefined): Promise<void> {
  for (const deadline = Date.now() + 10_000; ; await sleep(50)) {
    try {
      return await local.start()
    } catch (error) {
      if (!notYet?.test(String(error)) || Date.now() > deadline) throw error
    }
  }
}

function serviceOf(local: ServerProcess, { url, ca, usable, notYet }: Prepared): Service {
  return {
    ...parseAddress(url, { scheme: '', defaultPort: local.port }),
    ca,
    dir: local.dir,
    kill: () => local.kill(),
    stop: () => local.stop(),
    start: async () => {
      await startWhenFree(local, notYet)
      await usable?.()
    },
    [Symbol.asyncDispose]: () => local.dispose(),
  }
}
