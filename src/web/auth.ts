/**
 * Who asks: accounts with a token or a password, compared in constant time, and a limit on wrong ones per address. Without
 * accounts there is one, an operator, whose token was drawn at random and lies in a file that only this user can read. There is
 * no password that was not set, and nothing secret is kept as text after the start.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { isIPv6 } from 'node:net'
import { dirname } from 'node:path'
import type { Account, Role } from '../config/admin.ts'
import { SluiceError } from '../errors.ts'

export interface Who {
  readonly name: string
  readonly role: Role
}
/** Nobody said who he is; a wrong token or password; so many of them that none is looked at for a while. */
export type Unknown = 'nobody' | 'wrong' | 'limited'

const WRONG_MAX = 10 // in a row from one address
const FORGIVE_MS = 6000 // one of them each
const ADDRESSES_MAX = 10_000

interface Credential extends Who {
  readonly kind: 'token' | 'password'
  readonly digest: Buffer
}

export class Auth {
  readonly #key = randomBytes(32)
  readonly #credentials: readonly Credential[]
  readonly #wrong = new Map<string, { count: number; at: number }>()
  refused = 0

  constructor(accounts: Readonly<Record<string, Account>>) {
    this.#credentials = Object.entries(accounts).map(([name, { role, token, password }]) => ({
      name,
      role,
      kind: token === undefined ? 'password' : 'token',
      digest: this.#digest(token ?? password ?? randomBytes(32)),
    }))
  }

  /** `authorization` as the header has it. */
  check(authorization: string | undefined, address: string): Who | Unknown {
    const [, scheme, rest] = /^(\w+) +(\S+)$/.exec(authorization?.trim() ?? '') ?? []
    if (scheme === undefined || rest === undefined)
      return authorization ? this.#failed(address) : 'nobody'
    if (scheme.toLowerCase() === 'bearer') {
      // A token cannot be guessed, so a right one is good whatever else came from its address.
      return this.#find('token', undefined, rest) ?? this.#failed(address)
    }
    if (scheme.toLowerCase() !== 'basic') return this.#failed(address)
    if (this.#limited(address)) return 'limited'
    const text = Buffer.from(rest, 'base64').toString('utf8')
    const colon = text.indexOf(':')
    const user = text.slice(0, Math.max(0, colon))
    return this.#find('password', user, text.slice(colon + 1)) ?? this.#failed(address)
  }
  /** Seconds until an address is heard again. */
  retryAfter(address: string): number {
    const wrong = this.#wrong.get(bucketOf(address))
    if (!wrong) return 0
    return Math.max(1, Math.ceil(((wrong.count - WRONG_MAX + 1) * FORGIVE_MS) / 1000))
  }

  /** Compares with all of them, whatever fits. */
  #find(kind: Credential['kind'], user: string | undefined, secret: string): Who | undefined {
    const digest = this.#digest(secret)
    let found: Who | undefined
    for (const c of this.#credentials) {
      const equal = timingSafeEqual(c.digest, digest)
      if (equal && c.kind === kind && (user === undefined || c.name === user)) found = c
    }
    return found && { name: found.name, role: found.role }
  }
  #digest(secret: string | Buffer): Buffer {
    return createHmac('sha256', this.#key).update(secret).digest()
  }
  #failed(address: string): Unknown {
    this.refused++
    if (this.#limited(address)) return 'limited'
    const key = bucketOf(address)
    const before = this.#wrong.get(key)
    this.#wrong.delete(key) // the newest are last
    this.#wrong.set(key, { count: (before?.count ?? 0) + 1, at: before?.at ?? Date.now() })
    if (this.#wrong.size > ADDRESSES_MAX) this.#wrong.delete(this.#wrong.keys().next().value!)
    return 'wrong'
  }
  #limited(address: string): boolean {
    const key = bucketOf(address)
    const wrong = this.#wrong.get(key)
    if (!wrong) return false
    const forgiven = Math.floor((Date.now() - wrong.at) / FORGIVE_MS)
    wrong.count -= forgiven
    wrong.at += forgiven * FORGIVE_MS
    if (wrong.count <= 0) this.#wrong.delete(key)
    return wrong.count >= WRONG_MAX
  }
}

/** An IPv4 address; of IPv6 the network, for a host has as many addresses as it likes. */
function bucketOf(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/, '')
  if (!isIPv6(plain)) return plain
  const [left = '', right] = plain.split('::')
  const head = left.split(':').filter(Boolean)
  const tail = right?.split(':').filter(Boolean) ?? []
  const zeros = Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => '0')
  return [...head, ...zeros, ...tail].slice(0, 4).join(':')
}

/** The token in `file`, which is made where it is missing. Throws CONFIG_INVALID when it holds something else. */
export function tokenFrom(file: string): string {
  try {
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, `${randomBytes(32).toString('base64url')}\n`, { mode: 0o600, flag: 'wx' })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw unusable(file, error)
  }
  let token: string
  try {
    token = readFileSync(file, 'utf8').trim()
  } catch (error) {
    throw unusable(file, error)
  }
  if (/^\S{20,}$/.test(token)) return token
  const text = `${file}: expected a token of at least 20 characters on one line; remove the file to get a new one`
  throw new SluiceError('CONFIG_INVALID', text)
}
function unusable(file: string, cause: unknown): SluiceError {
  const text = `${file}: expected a file for the token of the admin port: ${(cause as Error).message}`
  return new SluiceError('CONFIG_INVALID', text, { cause })
}
