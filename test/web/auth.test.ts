/** Accounts, the limit on wrong passwords, the token file, and the audit log. */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { loadServer } from '../../src/config/config.ts'
import { SluiceError } from '../../src/errors.ts'
import { Audit, type AuditLine } from '../../src/web/audit.ts'
import { Auth, tokenFrom } from '../../src/web/auth.ts'

const dir = mkdtempSync(join(tmpdir(), 'sluice-auth-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
afterEach(() => vi.useRealTimers())

const token = 'x'.repeat(20)
const accounts = {
  robot: { role: 'operator' as const, token, password: undefined },
  alice: { role: 'readOnly' as const, token: undefined, password: 'a:password' },
}
const basic = (user: string, password: string) =>
  `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`

describe('Auth', () => {
  test('knows a token, and a user with a password, also with a colon in it', () => {
    const auth = new Auth(accounts)
    expect(auth.check(`Bearer ${token}`, '::1')).toEqual({ name: 'robot', role: 'operator' })
    expect(auth.check(basic('alice', 'a:password'), '::1')).toEqual({
      name: 'alice',
      role: 'readOnly',
    })
    expect(auth.refused).toBe(0)
  })
  test('does not take one for the other, nor anything else', () => {
    const auth = new Auth(accounts)
    const wrong = [
      basic('robot', token),
      basic('alice', ''),
      basic('', 'a:password'),
      'Bearer a:password',
      'Digest x',
      'Bearer',
      `Bearer ${token} more`,
    ]
    expect(wrong.map((text) => auth.check(text, '::1'))).toEqual(wrong.map(() => 'wrong'))
    expect(auth.check(undefined, '::1')).toBe('nobody')
    expect(auth.refused).toBe(wrong.length)
  })
  test('an address that was wrong too often is forgiven one by one; others are not blamed', () => {
    vi.useFakeTimers()
    const auth = new Auth(accounts)
    const right = basic('alice', 'a:password')
    const guess = (address: string) => auth.check(basic('alice', 'guess'), address)
    for (let i = 0; i < 10; i++) expect(guess('10.0.0.1')).toBe('wrong')
    expect(guess('10.0.0.1')).toBe('limited')
    expect(auth.check(right, '10.0.0.1')).toBe('limited')
    expect(auth.check(right, '::ffff:10.0.0.1')).toBe('limited')
    expect(auth.check(`Bearer ${token}`, '10.0.0.1')).toMatchObject({ name: 'robot' })
    expect(auth.check(right, '10.0.0.2')).toMatchObject({ name: 'alice' })
    expect(auth.retryAfter('10.0.0.1')).toBe(6)
    vi.advanceTimersByTime(6000)
    expect(auth.check(right, '10.0.0.1')).toMatchObject({ name: 'alice' })
    expect([guess('10.0.0.1'), guess('10.0.0.1')]).toEqual(['wrong', 'limited'])
  })
  test('a host with a whole IPv6 network is one address', () => {
    const auth = new Auth(accounts)
    for (let i = 0; i < 10; i++) auth.check('Bearer guess', `2001:db8:1:2::${i}`)
    expect(auth.check('Bearer guess', '2001:db8:1:2:3:4:5:6')).toBe('limited')
    expect(auth.check('Bearer guess', '2001:db8:1:3::1')).toBe('wrong')
  })
})

test('the token file is made once, for this user alone; what is none is refused', () => {
  const file = join(dir, 'data', 'admin.token')
  const made = tokenFrom(file)
  expect(made).toMatch(/^[\w-]{43}$/)
  expect(tokenFrom(file)).toBe(made)
  expect(statSync(file).mode & 0o777).toBe(0o600)
  writeFileSync(file, 'short\n')
  expect(() => tokenFrom(file)).toThrow(/at least 20 characters/)
  expect(() => tokenFrom(join(file, 'below'))).toThrow(SluiceError)
})

describe('the configuration of accounts', () => {
  const problems = (yaml: string): string[] => {
    const file = join(dir, 'server.yaml')
    writeFileSync(file, yaml)
    return loadServer(file, {}).problems.map((p) => `${p.line} ${p.key}: ${p.message}`)
  }
  test('has either a token or a password, long enough, and never shows one', () => {
    const yaml = (account: string) => `admin:\n  port: 0\n  accounts:\n    a: ${account}\n`
    expect(problems(yaml(`{token: ${token}}`))).toEqual([])
    expect(problems(yaml('{role: operator}'))).toEqual([
      '4 admin.accounts.a: expected either a token or a password',
    ])
    expect(problems(yaml(`{token: ${token}, password: long-enough-too}`))).toHaveLength(1)
    const short = problems(yaml('{token: hunter2}'))
    expect(short).toEqual([
      '4 admin.accounts.a.token: expected a token of at least 20 characters, found a string',
    ])
    expect(problems(yaml('{password: hunter2}')).join()).not.toContain('hunter2')
    expect(problems(yaml('{role: root, token: x}')).join()).toContain('one of readOnly, operator')
    expect(problems(`admin:\n  accounts:\n    a b: {token: ${token}}\n`)).toHaveLength(1)
  })
})

describe('Audit', () => {
  const line = (details: string) => ({
    phase: 'asked' as const,
    account: 'robot',
    address: '::1',
    action: 'POST /x',
    details,
  })
  test('reads back the newest first, over a line that a crash cut off', () => {
    const file = join(dir, 'audit.log')
    const audit = new Audit(file)
    const id = audit.write(line('one'))
    audit.write({ ...line('two'), phase: 'done' }, id)
    writeFileSync(file, `${readFileSync(file, 'utf8')}{"time": "2`)
    expect(new Audit(file).read(9).map((l) => [l.id, l.phase, l.details])).toEqual([
      [id, 'done', 'two'],
      [id, 'asked', 'one'],
    ])
    expect(audit.read(1)).toHaveLength(1)
  })
  test('keeps two files of bounded size', () => {
    const file = join(dir, 'bounded.log')
    const audit = new Audit(file)
    for (let i = 0; i < 30; i++) audit.write(line(`${i} ${'x'.repeat(1024 * 1024)}`))
    const sizes = [file, `${file}.1`].map((f) => statSync(f).size)
    expect(Math.max(...sizes)).toBeLessThan(10 * 1024 * 1024)
    const kept = audit.read(100).map((l: AuditLine) => parseInt(l.details))
    expect(kept).toEqual(kept.map((_, i) => 29 - i))
    expect(kept.length).toBeGreaterThan(8)
  })
  test('throws when it cannot be written', () => {
    const folder = join(dir, 'gone')
    mkdirSync(folder)
    const audit = new Audit(join(folder, 'audit.log'))
    rmSync(folder, { recursive: true })
    expect(() => audit.write(line('x'))).toThrow(
      expect.objectContaining({ code: 'STATE_UNWRITABLE' }) as Error,
    )
    chmodSync(dir, 0o700)
  })
})
