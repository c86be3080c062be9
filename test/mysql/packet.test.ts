import { describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { serverFailure } from '../../src/mysql/failure.ts'
import { PacketReader } from '../../src/mysql/packet.ts'
import { packets } from '../sources/fixture.ts'

const newReader = (): PacketReader =>
  new PacketReader((number, text) => serverFailure(number, text, 'dump'))

/** The payloads of a stream given in `size`-byte chunks. */
function payloads(stream: Buffer, size: number): Buffer[] {
  const reader = newReader()
  const all: Buffer[] = []
  let parts: Buffer[] = []
  for (let at = 0; at < stream.length; at += size) {
    reader.push(stream.subarray(at, at + size))
    while (reader.next()) {
      expect(reader.first).toBe(parts.length === 0)
      parts.push(Buffer.from(reader.bytes.subarray(reader.start, reader.end)))
      if (reader.last) {
        all.push(Buffer.concat(parts))
        parts = []
      }
    }
  }
  return all
}
/** A packet with any sequence id. */
function packet(sequence: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(4)
  head.writeUIntLE(payload.length, 0, 3)
  head[3] = sequence
  return Buffer.concat([head, payload])
}

describe('packets', () => {
  test.each([1, 2, 3, 5, 7, 64, 10_000])('are found in chunks of %i bytes', (size) => {
    const bodies = Array.from({ length: 300 }, (_, i) => Buffer.alloc(1 + ((i * 7) % 40), i))
    expect(payloads(packets(bodies), size)).toEqual(bodies)
  })

  test.each([0xffffff - 2, 0xffffff - 1, 0xffffff, 2 * 0xffffff - 1, 2 * 0xffffff])(
    'a payload of %i bytes and its status byte is joined',
    (size) => {
      const bodies = [Buffer.alloc(size, 1), Buffer.from('next')]
      const found = payloads(packets(bodies), 1_000_003)
      expect(found.map((b) => b.length)).toEqual([size, 4])
      expect(found[0]?.equals(bodies[0]!)).toBe(true)
    },
  )

  test.each<[string, Buffer, string]>([
    ['a sequence id out of order', packet(2, Buffer.from([0, 1])), 'PACKET_MALFORMED'],
    ['an empty payload', packet(1, Buffer.alloc(0)), 'PACKET_MALFORMED'],
    ['another first byte', packet(1, Buffer.from([7])), 'PACKET_MALFORMED'],
    ['an EOF packet', packet(1, Buffer.from([0xfe, 0, 0, 0, 0])), 'STREAM_ENDED'],
    ['an ERR packet without a text', packet(1, Buffer.from([0xff, 1])), 'PACKET_MALFORMED'],
  ])('%s: an error', (_, stream, code) => {
    for (const size of [1, 100]) {
      expect(() => payloads(stream, size)).toThrow(expect.objectContaining({ code }) as Error)
    }
  })

  test.each<[number, string, string]>([
    [
      1236,
      'A slave with the same server_uuid/server_id as this slave has connected to the source',
      'SERVER_ID_CLASH',
    ],
    [1236, 'Could not find first log file name in binary log index file', 'POSITION_LOST'],
    [1236, 'Cannot replicate because the source purged required binary logs.', 'POSITION_LOST'],
    [
      1236,
      'Client requested source to start replication from position > file size',
      'POSITION_LOST',
    ],
    [
      1236,
      "Slave has more GTIDs than the source has, using the source's SERVER_UUID.",
      'SOURCE_CHANGED',
    ],
    [1236, 'something new', 'SERVER_ERROR'],
    [1227, 'Access denied; you need the REPLICATION SLAVE privilege', 'ACCESS_DENIED'],
    [1317, 'Query execution was interrupted', 'STREAM_ENDED'],
  ])('error %i "%s" becomes %s', (number, text, code) => {
    const body = Buffer.concat([
      Buffer.from([0xff, number & 0xff, number >> 8]),
      Buffer.from(`#HY000${text}`),
    ])
    for (const size of [1, 4, 1000]) {
      try {
        payloads(packet(1, body), size)
        expect.unreachable()
      } catch (error) {
        expect(error).toBeInstanceOf(SluiceError)
        expect(error).toMatchObject({ code })
        expect((error as SluiceError).message).toContain(text)
      }
    }
  })
})
