/** The wire files against the bytes of Canal's Java classes, any chunking, and garbage. */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { readEntry, readRowChange, readTransactionMark } from '../../src/server/entries.ts'
import * as wire from '../../src/server/wire.ts'

const golden = new Map(
  readFileSync(new URL('../fixtures/canal/golden.txt', import.meta.url), 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(' ') as [string, string]),
)
/** A packet of the golden file as a frame. */
function frame(name: string): Buffer {
  const packet = Buffer.from(golden.get(name)!, 'hex')
  const length = Buffer.alloc(4)
  length.writeInt32BE(packet.length)
  return Buffer.concat([length, packet])
}
const seed = Buffer.from([1, 2, 3, 4, 5, 6, 7, 8])
const { packetTypes } = wire

const token = wire.scramble('secret', seed)
const auth: wire.ClientAuth = {
  username: 'canal',
  password: token,
  readTimeoutMs: 3_600_000,
  writeTimeoutMs: 3_600_000,
  destination: '',
  clientId: '',
  filter: '',
  startTimestamp: 0n,
}
const get = { destination: 'example', clientId: '1001', autoAck: false }
const example = { destination: 'example', clientId: '1001' }

describe('packets are what Java writes', () => {
  const { framePacket } = wire
  const cases: [string, Buffer][] = [
    ['packet-handshake', framePacket(packetTypes.HANDSHAKE, wire.writeHandshake(seed), 1)],
    [
      'packet-ack-ok',
      framePacket(packetTypes.ACK, wire.writeAck({ errorCode: undefined, errorMessage: '' }), 1),
    ],
    [
      'packet-ack-400',
      framePacket(
        packetTypes.ACK,
        wire.writeAck({ errorCode: 400, errorMessage: 'no such thing' }),
        1,
      ),
    ],
    ['packet-empty', framePacket(packetTypes.MESSAGES, wire.writeMessages(-1n, []), 1)],
    ['packet-auth', framePacket(packetTypes.CLIENTAUTHENTICATION, wire.writeClientAuth(auth))],
    [
      'packet-sub',
      framePacket(packetTypes.SUBSCRIPTION, wire.writeSub({ ...example, filter: '.*\\..*' })),
    ],
    [
      'packet-unsub',
      framePacket(packetTypes.UNSUBSCRIPTION, wire.writeSub({ ...example, filter: '' })),
    ],
    [
      'packet-get',
      framePacket(
        packetTypes.GET,
        wire.writeGet({ ...get, fetchSize: 1000, timeout: -1, unit: 2 }),
      ),
    ],
    [
      'packet-get-0',
      framePacket(packetTypes.GET, wire.writeGet({ ...get, fetchSize: 0, timeout: 0, unit: -1 })),
    ],
    [
      'packet-clientack',
      framePacket(packetTypes.CLIENTACK, wire.writeClientAck({ ...example, batchId: 77n })),
    ],
    [
      'packet-rollback-0',
      framePacket(
        packetTypes.CLIENTROLLBACK,
        wire.writeClientRollback({ ...example, batchId: 0n }),
      ),
    ],
  ]
  test.each(cases)('%s', (name, bytes) => {
    expect(bytes.toString('hex')).toBe(frame(name).toString('hex'))
  })
})

describe('readers take back what Java wrote', () => {
  const body = (name: string): Buffer => wire.readPacket(frame(name).subarray(4)).body
  test('presence of optional fields is kept apart from zero', () => {
    expect(wire.readPacket(frame('packet-handshake').subarray(4))).toMatchObject({
      version: 1,
      type: packetTypes.HANDSHAKE,
      magicNumber: undefined,
      compression: undefined,
    })
    expect(wire.readPacket(frame('packet-get').subarray(4)).version).toBeUndefined()
    expect(wire.readGet(body('packet-get-0'))).toEqual({
      ...get,
      fetchSize: 0,
      timeout: 0,
      unit: -1,
    })
    expect(wire.readGet(Buffer.alloc(0))).toMatchObject({
      timeout: undefined,
      unit: undefined,
      autoAck: undefined,
    })
  })
  test('every message', () => {
    expect(wire.readHandshake(body('packet-handshake')).seeds).toEqual(seed)
    expect(wire.readAck(body('packet-ack-ok')).errorCode).toBeUndefined()
    expect(wire.readAck(body('packet-ack-400'))).toEqual({
      errorCode: 400,
      errorMessage: 'no such thing',
    })
    expect(wire.readClientAuth(body('packet-auth'))).toEqual(auth)
    expect(wire.readSub(body('packet-sub'))).toEqual({ ...example, filter: '.*\\..*' })
    expect(wire.readGet(body('packet-get')).timeout).toBe(-1)
    expect(wire.readClientAck(body('packet-clientack')).batchId).toBe(77n)
    const empty = new wire.MessagesReader(body('packet-empty'))
    expect([empty.batchId, empty.count, empty.next()]).toEqual([-1n, 0, false])
  })
  test('messages are walked entry by entry', () => {
    const entries = [Buffer.from('one'), Buffer.alloc(0), Buffer.from('three')]
    const reader = new wire.MessagesReader(wire.writeMessages(1n << 62n, entries))
    const got: string[] = []
    while (reader.next()) got.push(reader.bytes.toString('latin1', reader.start, reader.end))
    expect(reader.batchId).toBe(1n << 62n)
    expect(got).toEqual(['one', '', 'three'])
  })
  test('unknown fields of every wire type are skipped', () => {
    const unknown = Buffer.from(
      'f0017f' + 'f9010102030405060708' + 'fa0103616263' + 'fd0101020304',
      'hex',
    )
    const bytes = Buffer.concat([
      unknown,
      wire.writeClientAck({ ...example, batchId: 5n }),
      unknown,
    ])
    expect(wire.readClientAck(bytes)).toEqual({ ...example, batchId: 5n })
  })
  test('a known number with another wire type is an unknown field', () => {
    // batch_id (3) as bytes, then as it should be
    const bytes = Buffer.concat([Buffer.from('1a0161', 'hex'), Buffer.from('1809', 'hex')])
    expect(wire.readClientAck(bytes).batchId).toBe(9n)
  })
})

describe('how long a get waits', () => {
  test.each([
    [{ timeout: -1, unit: 2 }, 0],
    [{ timeout: undefined, unit: undefined }, Infinity],
    [{ timeout: 0, unit: -1 }, Infinity],
    [{ timeout: -2, unit: 2 }, Infinity],
    [{ timeout: 1, unit: 0 }, 1],
    [{ timeout: 5000, unit: 1 }, 5],
    [{ timeout: 7, unit: 2 }, 7],
    [{ timeout: 7, unit: undefined }, 7],
    [{ timeout: 7, unit: -1 }, 7],
    [{ timeout: 7, unit: 99 }, 7],
    [{ timeout: 2, unit: 3 }, 2000],
    [{ timeout: 2, unit: 4 }, 120_000],
    [{ timeout: 2, unit: 5 }, 7_200_000],
    [{ timeout: 2, unit: 6 }, 172_800_000],
  ])('%j → %d ms', (request, ms) => {
    expect(wire.waitMs(request)).toBe(ms)
  })
})

describe('password scramble', () => {
  const hash = Buffer.from(golden.get('password-hash')!, 'hex').toString()
  test('is what Java computes', () => {
    expect(token.toString('hex')).toBe(golden.get('scramble'))
    expect(wire.passwordHash('secret')).toBe(hash)
  })
  test('is accepted only with the right password and seed', () => {
    expect(wire.checkScramble(token, seed, hash)).toBe(true)
    expect(wire.checkScramble(token, seed, hash.toUpperCase())).toBe(true)
    expect(wire.checkScramble(wire.scramble('Secret', seed), seed, hash)).toBe(false)
    expect(wire.checkScramble(token, Buffer.from([1, 2, 3, 4, 5, 6, 7, 9]), hash)).toBe(false)
    expect(wire.checkScramble(wire.scramble('', seed), seed, wire.passwordHash(''))).toBe(true)
  })
  test.each(['', 'ab', 'zz'.repeat(20), 'ab'.repeat(21)])('"%s" is malformed', (text) => {
    expect(() => wire.checkScramble(Buffer.from(text), seed, hash)).toThrow(SluiceError)
  })
})

describe('framing', () => {
  test('packets come out whole however the stream is cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 50 }),
        (packets, cuts) => {
          const stream = Buffer.concat(
            packets.map((p) => {
              const length = Buffer.alloc(4)
              length.writeInt32BE(p.length)
              return Buffer.concat([length, p])
            }),
          )
          const framer = new wire.Framer(1000)
          const got: Buffer[] = []
          for (let at = 0, i = 0; at < stream.length; i++) {
            const size = cuts[i % cuts.length]!
            framer.push(Buffer.from(stream.subarray(at, (at += size))))
            for (let p = framer.next(); p; p = framer.next()) got.push(p)
          }
          expect(got.map((p) => p.toString('hex'))).toEqual(
            packets.map((p) => Buffer.from(p).toString('hex')),
          )
          expect(framer.partial).toBe(false)
        },
      ),
    )
  })
  test('a packet larger than what is trusted at once', () => {
    const packet = Buffer.alloc(9_000_000, 'abcdefg')
    const length = Buffer.alloc(4)
    length.writeInt32BE(packet.length)
    const framer = new wire.Framer(10_000_000)
    let got: Buffer | undefined
    for (const chunk of [
      length,
      packet.subarray(0, 100),
      packet.subarray(100, 5_000_000),
      packet.subarray(5_000_000),
    ]) {
      expect(got).toBeUndefined()
      framer.push(chunk)
      got = framer.next()
    }
    expect(got!.equals(packet)).toBe(true)
  })
  test.each([
    ['ffffffff', 'got -1'],
    ['000003e9', 'got 1001'],
    ['47455420', 'got 1195725856'],
  ])('length %s is refused precisely', (hex, text) => {
    const framer = new wire.Framer(1000)
    framer.push(Buffer.from(hex, 'hex'))
    expect(() => framer.next()).toThrow(text)
    const other = new wire.Framer(1000)
    other.push(Buffer.from(hex, 'hex'))
    expect(() => other.next()).toThrow(SluiceError)
  })
})

describe('garbage', () => {
  const readers: ((bytes: Buffer) => unknown)[] = [
    wire.readPacket,
    wire.readHandshake,
    wire.readClientAuth,
    wire.readAck,
    wire.readSub,
    wire.readGet,
    wire.readClientAck,
    (b) => {
      const reader = new wire.MessagesReader(b)
      while (reader.next()) readEntry(reader.bytes, reader.start, reader.end)
    },
    (b) => readEntry(b),
    (b) => readTransactionMark(b),
    (b) => {
      const rows = readRowChange(b).rows()
      while (rows.next()) while (rows.nextColumn()) rows.column.value()
    },
  ]
  const onlySluiceErrors = (bytes: Buffer): void => {
    for (const read of readers) {
      try {
        read(bytes)
      } catch (error) {
        if (!(error instanceof SluiceError) || error.code !== 'WIRE_MALFORMED') throw error
      }
    }
  }
  test('random bytes end as a value or as WIRE_MALFORMED', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (b) => onlySluiceErrors(Buffer.from(b))),
      { numRuns: 2000 },
    )
  })
  test('flipped and cut golden bytes too', () => {
    const samples = [...golden.values()].map((hex) => Buffer.from(hex, 'hex'))
    fc.assert(
      fc.property(
        fc.constantFrom(...samples),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        fc.nat(),
        (sample, at, flip, cut) => {
          const bytes = Buffer.from(sample)
          bytes[at % bytes.length]! ^= flip
          onlySluiceErrors(bytes)
          onlySluiceErrors(sample.subarray(0, cut % sample.length))
        },
      ),
      { numRuns: 2000 },
    )
  })
  test.each([
    ['0a05', 'a field of 5 bytes'],
    ['0affffffffffffffffff01', 'a field of'],
    ['ffffffffffffffffffffff', 'a varint of at most 10 bytes'],
    ['80', 'a varint'],
    ['00', 'a field tag'],
    ['0b', 'wire type 3'],
  ])('%s: expected %s', (hex, text) => {
    expect(() => wire.readAck(Buffer.from(hex, 'hex'))).toThrow(text)
  })
})
