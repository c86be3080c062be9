/** How the SDK recognises what it had before, where a server cannot be made to show it: equal entries, a source that begins anew. */
import { describe, expect, it } from 'vitest'
import { Batch, Track } from '../../src/client/batch.ts'
import { ChangeReader } from '../../src/client/changes.ts'
import { SluiceError } from '../../src/errors.ts'
import { Out } from '../../src/out.ts'
import { putBytesField, putIntField, putTextField } from '../../src/protobuf.ts'
import { MessagesReader, writeMessages } from '../../src/server/wire.ts'

function message(write: (out: Out) => void): Buffer {
  const out = new Out(100)
  write(out)
  return out.buf.subarray(0, out.at)
}
/** An Entry of no kind, at a place. */
const entry = (file: number, offset: number, content = 'same'): Buffer => {
  const header = message((out) => {
    putIntField(out, 1, 1)
    putTextField(out, 2, `binlog.${String(file).padStart(6, '0')}`)
    putIntField(out, 3, offset)
  })
  return message((out) => {
    putBytesField(out, 1, header)
    putIntField(out, 2, 4)
    putBytesField(out, 3, Buffer.from(content))
  })
}
const scan = (track: Track, ...entries: Buffer[]): ReturnType<Track['scan']> =>
  track.scan(new MessagesReader(writeMessages(1n, entries)))

describe('track', () => {
  it('equal entries of one compressed transaction, after a rollback', () => {
    const track = new Track()
    const e = entry(1, 500)
    scan(track, e)
    track.acked(scan(track, e, e).end)
    expect(scan(track, e, e).redelivered).toBe(0)
    track.back(true)
    expect(scan(track, e, e, e).redelivered).toBe(2)
    track.acked(scan(track, e).end)
    track.back(true)
    expect(scan(track, e).redelivered).toBe(0)
  })

  it('after a new connection that lost acks, the bytes tell where it begins', () => {
    const track = new Track()
    const list = Array.from({ length: 6 }, (_, i) => entry(1, 500, `row ${i}`))
    track.acked(scan(track, ...list.slice(0, 2)).end)
    track.acked(scan(track, ...list.slice(2, 4)).end)
    scan(track, list[4]!)
    track.back(false)
    expect(scan(track, ...list.slice(2)).redelivered).toBe(3)
  })

  it('a rollback straight after a new connection knows no more than that', () => {
    const track = new Track()
    const list = Array.from({ length: 4 }, (_, i) => entry(1, 500, `row ${i}`))
    track.acked(scan(track, ...list.slice(0, 3)).end)
    track.back(false)
    track.back(true)
    expect(scan(track, ...list).redelivered).toBe(3)
  })

  it('a source that counts its files anew delivers nothing again', () => {
    const track = new Track()
    track.acked(scan(track, entry(100, 500)).end)
    scan(track, entry(100, 600))
    track.durable(100)
    track.back(false)
    expect(scan(track, entry(1, 4), entry(1, 100)).redelivered).toBe(0)
    track.back(false)
    expect(scan(track, entry(1, 100), entry(1, 200)).redelivered).toBe(1)
  })

  it('entries that are none', () => {
    for (const bad of ['0aff', '12', '0a0412ff0101']) {
      const bytes = writeMessages(1n, [Buffer.from(bad, 'hex')])
      expect(() => new Track().scan(new MessagesReader(bytes))).toThrow(SluiceError)
    }
  })
})

it('a batch leaves out entries of kinds that carry no change, but shows their bytes', () => {
  const list = [entry(7, 500), entry(7, 600)]
  const batch = new Batch(3n, scan(new Track(), ...list), new ChangeReader({}), () => undefined)
  expect(batch.changes).toEqual([])
  expect(batch.raw).toEqual(list)
  expect(batch).toMatchObject({
    id: 3n,
    size: 2,
    first: { file: 'binlog.000007', offset: 500 },
    last: { file: 'binlog.000007', offset: 600 },
  })
})
