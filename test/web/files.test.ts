/** Instance files through the API's eyes: secrets hidden and put back, everything wrong at once, written whole or not at all. */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { InstanceFiles } from '../../src/web/files/files.ts'
import { hide as hideWith, reveal } from '../../src/web/files/hidden.ts'
import { Refused } from '../../src/web/refused.ts'

const hide = (text: string) => hideWith(text, Buffer.alloc(32))

describe('secrets', () => {
  const text = `# password: in-a-comment
source:
  host: db.example
  password: "hunter2 # not a comment"
standbys:
  - {host: b, password: 'flow-secret'}
shared: &shared anchored-secret
sinks:
  cache: {type: redis, url: redis://default:url-secret@cache:6379}
  hook:
    type: http
    bearerToken: *shared
    headers: {X-Key: header-secret}
    secret: |
      block
      secret
  search: {password: "\${SEARCH_PASSWORD}", apiKey: "\${KEY:-default-secret}"}
`
  const secrets = [
    'in-a-comment',
    'hunter2',
    'flow-secret',
    'anchored-secret',
    'url-secret',
    'header-secret',
    'block\n      secret',
    'default-secret',
  ]
  test('are hidden wherever they stand; what comes from the environment is kept as written', () => {
    const shown = hide(text)
    for (const secret of secrets) expect(shown.text).not.toContain(secret)
    expect(shown.secrets.size).toBe(secrets.length)
    expect(shown.text).toContain('"${SEARCH_PASSWORD}"')
    expect(shown.text).toMatch(/redis:\/\/default:\(hidden [0-9a-f]{8}\)@cache:6379/)
    expect(shown.text.split('\n').length).toBe(text.split('\n').length - 2) // the block is one line
  })
  test('come back where their marks stand, also after the text around them was changed', () => {
    const shown = hide(text)
    const back = reveal(shown.text.replace('db.example', 'other.example'), shown.secrets)
    expect(back.unknown).toEqual([])
    expect(back.text).toContain('host: other.example\n  password: "hunter2 # not a comment"')
    expect(back.text).toContain('secret: "block\\nsecret\\n"')
    const [first, second] = [...shown.secrets.keys()].slice(1)
    const moved = reveal(`b: ${second}\na: ${first}\nc: (hidden 00000000)`, shown.secrets)
    expect(moved.text).toBe(
      'b: \'flow-secret\'\na: "hunter2 # not a comment"\nc: (hidden 00000000)',
    )
    expect(moved.unknown).toEqual([{ mark: '(hidden 00000000)', offset: 45 }])
    const other = hideWith(text, Buffer.alloc(32, 1))
    expect(reveal(other.text, shown.secrets).unknown).toHaveLength(secrets.length)
  })
  test('are hidden in a file that is no YAML too, with what follows them', () => {
    const broken = [
      'source:\n  password: hunter2\n   hunter3\n  user: [\n',
      'a: [\npassword: hunter2\n  hunter3\nb: 1\n',
      'x: {\n  "token" :  hunter2\n\thunter3: }}\n',
      'a: "\nsecret: |\n  hunter2\n\n  hunter3\n',
    ]
    for (const text of broken) {
      const shown = hide(text)
      expect(shown.text).not.toMatch(/hunter/)
      expect(reveal(shown.text, shown.secrets).text).toMatch(/hunter2.*hunter3/s)
    }
  })
  test('any file with any secret comes back as it was, and never shows one', () => {
    const word = fc.stringMatching(/^[a-z]{4,8}$/)
    const secret = fc
      .string({ minLength: 1, maxLength: 30, unit: 'grapheme' })
      .filter((s) => !s.includes('\n'))
      .map((s) => `S3CRET${s}S3CRET`)
    const value = fc.oneof(word, fc.integer(), fc.boolean())
    const file = fc.record({
      source: fc.record({ host: word, password: secret, port: fc.integer() }),
      sinks: fc.dictionary(word, fc.record({ type: word, secret, token: secret, more: value })),
    })
    fc.assert(
      fc.property(file, fc.boolean(), (content, flow) => {
        const written = stringify(content, { lineWidth: 0, collectionStyle: flow ? 'flow' : 'any' })
        const shown = hide(written)
        expect(shown.text).not.toContain('S3CRET')
        expect(reveal(shown.text, shown.secrets)).toEqual({ text: written, unknown: [] })
      }),
      { numRuns: 300 },
    )
  })
})

describe('the folder', () => {
  let dir: string
  let files: InstanceFiles
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'sluice-files-'))
    mkdirSync(join(dir, 'instances'))
    files = new InstanceFiles(join(dir, 'instances'))
  })
  afterAll(() => rmSync(dir, { recursive: true, force: true }))
  const path = (name: string): string => join(dir, 'instances', name)
  const refusal = (work: () => unknown): Refused => {
    try {
      work()
    } catch (error) {
      if (error instanceof Refused) return error
      throw error
    }
    throw new Error('it was not refused')
  }

  test('a file is created, read without its secret, replaced and removed', () => {
    const made = files.write('orders', 'source: {password: hunter2}\n', 'absent')
    expect(made.before).toBe(null)
    expect(statSync(path('orders.yaml')).mode & 0o777).toBe(0o600)
    const read = files.read('orders')
    expect(read).toMatchObject({
      file: 'orders.yaml',
      yaml: expect.stringMatching(/^source: \{password: \(hidden [0-9a-f]{8}\)\}\n$/) as string,
      hidden: 1,
      tag: made.after,
      writable: true,
    })
    chmodSync(path('orders.yaml'), 0o640)
    const next = files.write('orders', `gtid: true\n${read.yaml}`, { tag: read.tag })
    expect(next.before).toBe(made.after)
    expect(readFileSync(path('orders.yaml'), 'utf8')).toBe(
      'gtid: true\nsource: {password: hunter2}\n',
    )
    expect(statSync(path('orders.yaml')).mode & 0o777).toBe(0o640)
    expect(files.remove('orders', { tag: next.after! })).toEqual({
      before: next.after,
      after: null,
    })
    expect(readdirSync(join(dir, 'instances'))).toEqual([])
  })
  test('what somebody else has changed meanwhile is not overwritten', () => {
    const { after } = files.write('race', 'gtid: true\n', 'absent')
    writeFileSync(path('race.yaml'), 'gtid: false\n')
    const seen = { tag: after! }
    expect(refusal(() => files.write('race', 'enabled: false\n', seen)).status).toBe(412)
    expect(refusal(() => files.remove('race', seen)).status).toBe(412)
    expect(refusal(() => files.write('race', 'enabled: false\n', 'absent')).status).toBe(412)
    expect(refusal(() => files.write('gone', 'enabled: false\n', seen)).status).toBe(412)
    expect(readFileSync(path('race.yaml'), 'utf8')).toBe('gtid: false\n')
    files.remove('race', 'any')
  })
  test('nothing is written while anything is wrong; everything is said at once, with its line', () => {
    const yaml =
      'source:\n  prot: 1\n  password: (hidden 00000000)\nwindowBytes: much\nnonsense: 1\n'
    const { status, code, faults, message } = refusal(() => files.write('bad', yaml, 'absent'))
    expect([status, code]).toEqual([422, 'CONFIG_INVALID'])
    expect(faults!.map(({ line, key }) => [line, key])).toEqual([
      [2, 'source.prot'],
      [3, ''],
      [4, 'windowBytes'],
      [5, 'nonsense'],
    ])
    expect(message).toContain('line 2: source.prot: unknown key; did you mean "port"?')
    for (const empty of ['', ' \n'])
      expect(refusal(() => files.write('bad', empty, 'absent')).status).toBe(422)
    expect(readdirSync(join(dir, 'instances'))).toEqual([])
  })
  test('a secret is not shown by putting its mark, or an alias of it, somewhere else', () => {
    const secret = 'hunter2-of-this-test'
    files.write('trick', `source: {password: ${secret}, tls: {mode: disabled}}\n`, 'absent')
    const { yaml, tag } = files.read('trick')
    const mark = /\(hidden [0-9a-f]{8}\)/.exec(yaml)![0]
    const tricks = [
      `source: {port: ${mark}}`,
      `source: {user: ${mark}, password: x}`,
      `source: {user: "a ${mark}"}`,
      `# ${mark}\nsource: {password: ${mark}}`,
      `${mark}: 1`,
      `source: {user: x, password: &p ${mark}}\nstandbys: [{host: *p}]`,
      `source: {password: a${mark}}`,
      `source: *${mark}`,
      `source: {password: ${mark}`,
      `source: !${mark} x`,
      `filter: {include: "http://${mark}:x@h"}`,
      `sinks: {h: {type: http, url: "http://h", headers: {X: [${mark}]}}}`,
      `sinks: {h: {type: http, url: 5, bearerToken: {a: ${mark}}}}`,
    ]
    for (const trick of tricks) {
      const said = refusal(() => files.write('trick', trick, { tag }))
      expect([trick, said.status]).toEqual([trick, 422])
      expect(said.message).not.toContain(secret)
      expect(JSON.stringify(said.faults)).not.toContain(secret)
      expect(JSON.stringify(files.check('trick', trick).faults)).not.toContain(secret)
    }
    const moved = `standbys: [{host: b, password: ${mark}}]\nsource: {password: "\${PW:-x}"}\n`
    files.write('trick', moved, { tag })
    expect(readFileSync(path('trick.yaml'), 'utf8')).toContain(`{host: b, password: ${secret}}`)
    files.remove('trick', 'any')
  })
  test('no name leads out of the folder, and no link is followed', () => {
    const names = [
      '../x',
      '..',
      '.',
      '',
      '.hidden',
      'a/b',
      '/etc/passwd',
      'a\0b',
      'a\\b',
      '-x',
      'ä',
    ]
    for (const name of names) {
      expect([name, refusal(() => files.write(name, 'gtid: true\n', 'absent')).status]).toEqual([
        name,
        400,
      ])
      expect([name, refusal(() => files.read(name)).status]).toEqual([name, 400])
      expect([name, refusal(() => files.remove(name, 'any')).status]).toEqual([name, 400])
    }
    writeFileSync(join(dir, 'outside.yaml'), 'gtid: true\n')
    symlinkSync(join(dir, 'outside.yaml'), path('link.yaml'))
    expect(files.read('link').writable).toBe(false)
    const seen = { tag: files.read('link').tag }
    expect(refusal(() => files.write('link', 'gtid: false\n', seen))).toMatchObject({
      status: 409,
      message: expect.stringContaining('is a link to a file elsewhere') as string,
    })
    expect(readFileSync(join(dir, 'outside.yaml'), 'utf8')).toBe('gtid: true\n')
    expect(readdirSync(dir).sort()).toEqual(['instances', 'outside.yaml'])
  })
  test('a folder that the server may not write to is named as such', () => {
    const system = new InstanceFiles('/sys/kernel') // nobody makes files there, not even root
    expect(refusal(() => system.write('orders', 'gtid: true\n', 'absent'))).toMatchObject({
      status: 409,
      code: 'NOT_NOW',
      message: expect.stringContaining('/sys/kernel is read-only for the server') as string,
    })
  })
})
