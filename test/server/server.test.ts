/** Who is let in, TLS, limits, garbage on the port, and closing. */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CanalServer, type ServerOptions } from '../../src/server/server.ts'
import * as wire from '../../src/server/wire.ts'
import { begin, commit, rowsOf } from './changes.ts'
import { Client, Harness, TestLog, idsOf, until } from './harness.ts'

const secret = { user: 'canal', passwordHash: wire.passwordHash('secret') }
const scrambled = (client: Client, plain: string): Partial<wire.ClientAuth> => ({
  username: 'canal',
  password: wire.scramble(plain, client.seed),
})

describe('authentication', () => {
  test('the right user and password', async () => {
    await using h = await Harness.start(secret)
    const client = await h.client(false)
    client.sendAuth(scrambled(client, 'secret'))
    await client.ok()
    client.subscribe()
    await client.ok()
  })
  test.each([
    ['another user', (c: Client) => ({ ...scrambled(c, 'secret'), username: 'root' })],
    ['no user', (c: Client) => ({ ...scrambled(c, 'secret'), username: '' })],
    ['another password', (c: Client) => scrambled(c, 'Secret')],
    ['an empty password', (c: Client) => scrambled(c, '')],
    ['no password', () => ({ username: 'canal' })],
  ])('%s: refused, and the connection stays for another try', async (_name, auth) => {
    await using h = await Harness.start(secret)
    const client = await h.client(false)
    for (let i = 0; i < 2; i++) {
      client.sendAuth(auth(client))
      const { code, text } = await client.error()
      expect(code).toBe(400)
      expect(text).toContain(`auth failed for user:${auth(client).username}`)
    }
    client.subscribe() // counts as a ClientAuth, and is none
    expect((await client.error()).text).toContain('auth failed')
    client.sendAuth(scrambled(client, 'secret'))
    await client.ok()
    expect(h.server.counters.authFailures).toBe(3)
    expect(h.log.lines.filter((l) => l.includes('authentication failed'))).toHaveLength(1)
  })
  test.each(['short', 'zz'.repeat(20), 'secret in the clear'])(
    'password "%s" is no scramble: closed',
    async (text) => {
      await using h = await Harness.start(secret)
      const client = await h.client(false)
      client.sendAuth({ username: 'canal', password: Buffer.from(text) })
      expect((await client.error()).text).toContain('40 hexadecimal')
      await client.closed
      expect(h.log.lines.join()).not.toContain(text)
    },
  )
  test('a password without a user lets any user in who knows it', async () => {
    await using h = await Harness.start({ passwordHash: secret.passwordHash.toUpperCase() })
    const client = await h.client(false)
    client.sendAuth({ ...scrambled(client, 'secret'), username: 'whoever' })
    await client.ok()
    const other = await h.client(false)
    other.sendAuth({ username: 'whoever' })
    expect((await other.error()).code).toBe(400)
  })
  test('without either everybody is let in, whatever is sent', async () => {
    await using h = await Harness.start()
    await h.client({ username: 'x', password: Buffer.from('plain') })
  })
  test('the type of the first packet is not looked at', async () => {
    await using h = await Harness.start()
    const client = await h.client(false)
    client.send(wire.packetTypes.GET, Buffer.alloc(0))
    await client.ok()
  })
  test.each<[Partial<ServerOptions>, string]>([
    [{ user: 'canal' }, 'no password'],
    [{ user: 'canal', passwordHash: 'secret' }, '40 hexadecimal'],
  ])('refuses to start with %j', async (options, text) => {
    await expect(Harness.start(options)).rejects.toThrow(text)
  })
})

test('TLS', async () => {
  const pem = (name: string): Buffer =>
    readFileSync(new URL(`../fixtures/tls/${name}.pem`, import.meta.url))
  await using h = await Harness.start({ tls: { key: pem('key'), cert: pem('cert') } })
  const client = await h.client({}, true)
  client.subscribe()
  await client.ok()
  const rows = Array.from({ length: 5000 }, (_, i) => ({ after: [String(i), 'n'.repeat(300)] }))
  h.append([begin(), rowsOf('insert', rows), commit()])
  expect(idsOf((await client.get({ timeout: 0 })).entries)).toHaveLength(5000)
  // a client that does not speak TLS is closed, and nobody else notices
  const plain = connect(h.server.port, '127.0.0.1')
  plain.on('error', () => undefined)
  plain.write('GET / HTTP/1.1\r\n\r\n')
  plain.resume()
  await once(plain, 'close')
  expect(h.log.lines.filter((l) => l.includes('TLS handshake failed'))).toHaveLength(1)
  h.insert(1)
  expect((await client.ids()).slice(1)).toEqual(['1'])
})

describe('garbage', () => {
  test.each([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['a negative length', Buffer.from('ffffffff00', 'hex')],
    ['a huge length', Buffer.from('7fffffff00', 'hex')],
    ['one byte over the limit', Buffer.from('000f424100', 'hex')],
  ])('%s: an error ACK, closed, logged once', async (_name, bytes) => {
    await using h = await Harness.start()
    const other = await h.subscribed()
    const client = await h.client(false)
    client.socket.write(bytes)
    client.socket.write(bytes)
    const { code, text } = await client.error()
    expect(code).toBe(400)
    expect(text).toContain('WIRE_MALFORMED: expected a packet length of 0 to 1000000 bytes, got')
    await client.closed
    expect(h.log.lines.filter((l) => l.includes('malformed packet'))).toHaveLength(1)
    h.insert(1)
    expect(await other.ids()).toEqual([1, '1'])
  })
  test('a packet of exactly the limit is read', async () => {
    await using h = await Harness.start()
    const client = await h.client()
    client.send(0, Buffer.alloc(1_000_000 - 4)) // tag and three bytes of length
    expect((await client.error()).text).toContain('type 0 is not supported')
  })
  test('many bad packets on one connection are answered each and logged once', async () => {
    await using h = await Harness.start()
    const client = await h.client()
    for (let i = 0; i < 100; i++) client.socket.write(Buffer.from('00000002ffff', 'hex'))
    for (let i = 0; i < 100; i++) expect((await client.error()).code).toBe(400)
    expect(h.log.lines).toHaveLength(1)
    expect(h.server.counters.malformed).toBe(100)
  })
})

describe('limits and closing', () => {
  test('connections beyond the limit are closed', async () => {
    await using h = await Harness.start({ connectionsMax: 2 })
    await h.client()
    const second = await h.client()
    await expect(Client.connect(h.server.port)).rejects.toThrow('closed with 0 bytes')
    expect(h.server.counters.connectionsRefused).toBe(1)
    second.socket.destroy()
    await second.closed
    await until(() => h.server.counters.connectionsOpen === 1)
    await h.client()
  })
  test('an address that is taken', async () => {
    await using h = await Harness.start()
    const again = CanalServer.listen({
      host: '127.0.0.1',
      port: h.server.port,
      packetBytesMax: 1000,
      connectionsMax: 1,
      idleMs: 1000,
      log: new TestLog(),
      resolve: () => 'nothing here',
    })
    await expect(again).rejects.toMatchObject({ code: 'LISTEN_FAILED' })
  })
  test('close ends idle, waiting and half-open connections', async () => {
    await using h = await Harness.start()
    const idle = await h.subscribed('', '1')
    const waiting = await h.subscribed('', '2')
    waiting.sendGet({ clientId: '2', timeout: 0 })
    const fresh = await h.client(false)
    await h.client()
    await h.server.close()
    await Promise.all([idle.closed, waiting.closed, fresh.closed])
    await expect(Client.connect(h.server.port)).rejects.toThrow()
    expect(h.server.counters.connectionsOpen).toBe(0)
  })
  test('close lets the reply in hand finish', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    const rows = Array.from({ length: 500 }, (_, i) => ({ after: [String(i), 'n'.repeat(300)] }))
    let encoding = false
    const insert = rowsOf('insert', rows)
    const reader = (): ReturnType<typeof insert.reader> => {
      encoding = true
      return insert.reader()
    }
    h.append([begin(), ...Array.from({ length: 100 }, () => ({ ...insert, reader })), commit()])
    client.sendGet({ timeout: 0 })
    await until(() => encoding)
    const closing = h.server.close()
    expect(idsOf((await client.messages()).entries)).toHaveLength(50_000)
    await client.closed
    await closing
  })
  test('counters', async () => {
    await using h = await Harness.start()
    const client = await h.subscribed()
    h.insert(1)
    await client.ids()
    await client.get()
    const { counters } = h.server
    expect(counters).toMatchObject({
      connectionsOpen: 1,
      connectionsTotal: 1,
      batches: 1,
      emptyBatches: 1,
      entries: 3,
      bytesIn: client.socket.bytesWritten,
      bytesOut: client.socket.bytesRead,
    })
    expect(counters.packetsIn[wire.packetTypes.GET]).toBe(2)
    expect(counters.packetsOut[wire.packetTypes.MESSAGES]).toBe(2)
  })
})

// ── whatever bytes a client sends ────────────────────────────────────────────

const valid = readFileSync(new URL('../fixtures/canal/golden.txt', import.meta.url), 'utf8')
  .trim()
  .split('\n')
  .filter((line) => /^packet-(?:auth|sub|unsub|get|clientack|rollback)/.test(line))
  .map((line) => Buffer.from(line.split(' ')[1]!, 'hex'))

const framed = (packet: Uint8Array): Buffer => {
  const length = Buffer.alloc(4)
  length.writeInt32BE(packet.length)
  return Buffer.concat([length, packet])
}
const whole = fc.constantFrom(...valid).map(framed)
const flipped = fc
  .tuple(whole, fc.nat(), fc.integer({ min: 1, max: 255 }), fc.boolean())
  .map(([frame, at, flip, keepLength]) => {
    const bytes = Buffer.from(frame)
    bytes[keepLength ? 4 + (at % (bytes.length - 4)) : at % bytes.length]! ^= flip
    return bytes
  })
const cut = fc.tuple(whole, fc.nat()).map(([frame, at]) => frame.subarray(0, at % frame.length))
const random = fc.uint8Array({ maxLength: 300 }).map((b) => Buffer.from(b))
const randomPacket = random.map(framed)
const randomBody = fc
  .tuple(fc.integer({ min: -1, max: 15 }), random)
  .map(([type, body]) => wire.framePacket(type, body))
const length = fc.integer({ min: -0x80000000, max: 0x7fffffff }).map((n) => {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(n)
  return bytes
})
const stream = fc.array(fc.oneof(whole, flipped, randomPacket, randomBody, cut, random, length), {
  minLength: 1,
  maxLength: 8,
})

test(
  'whatever bytes a client sends, the server stays up and the others get their data',
  { timeout: 60_000 },
  async () => {
    await using h = await Harness.start({ idleMs: 60_000 })
    const other = await h.subscribed('', '7')
    let id = 0
    await fc.assert(
      fc.asyncProperty(stream, fc.boolean(), async (pieces, letIn) => {
        const socket = connect({ port: h.server.port, host: '127.0.0.1', noDelay: true })
        socket.on('error', () => undefined)
        socket.resume()
        if (letIn) socket.write(wire.framePacket(2, Buffer.alloc(0)))
        for (const piece of pieces) socket.write(piece)
        const closed = new Promise((resolve) => socket.on('close', resolve))
        socket.end()
        h.insert(++id)
        const [batch, ...ids] = await other.ids({ clientId: '7' })
        expect(ids).toEqual([String(id)])
        other.ack(batch, '7')
        socket.destroy()
        await closed
      }),
      { numRuns: 400 },
    )
    await until(() => h.server.counters.connectionsOpen === 1)
    expect(h.log.lines.filter((line) => line.startsWith('error'))).toEqual([])
  },
)
