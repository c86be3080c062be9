/** Time zones: what can be named, and the offset at every instant, compared with what Intl says of that instant alone. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseTimeZone } from '../../src/binlog/time.ts'

describe('parseTimeZone', () => {
  it.each([
    ['+00:00', 0],
    ['+08:00', 28_800],
    ['-03:30', -12_600],
    ['+14:00', 50_400],
    ['-13:59', -50_340],
    ['UTC', 0],
    ['Asia/Kolkata', 19_800],
  ])('%s', (text, offset) => {
    expect(parseTimeZone(text).offset(1_700_000_000)).toBe(offset)
  })

  it.each(['', '+14:01', '-14:00', '+08:60', '8', 'SYSTEM', 'Mars/Phobos', '+08:00:00'])(
    '%j is refused',
    (text) => {
      expect(() => parseTimeZone(text)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }))
    },
  )
})

describe('changes of the clock', () => {
  const at = (iso: string): number => Date.parse(iso) / 1000
  it.each([
    ['Europe/Berlin', '2026-03-29T01:00:00Z', 3600, 7200],
    ['Europe/Berlin', '2026-10-25T01:00:00Z', 7200, 3600],
    ['America/New_York', '2026-03-08T07:00:00Z', -18_000, -14_400],
    ['Australia/Lord_Howe', '2026-04-04T15:00:00Z', 39_600, 37_800], // half an hour
    ['Pacific/Apia', '2011-12-30T10:00:00Z', -36_000, 50_400], // a day left out
    ['Asia/Pyongyang', '2018-05-04T15:00:00Z', 30_600, 32_400],
  ])('%s at %s', (name, iso, before, after) => {
    const zone = parseTimeZone(name)
    const change = at(iso)
    const offsets = [change - 1, change, change + 1, change - 86_400, change + 86_400].map((s) =>
      zone.offset(s),
    )
    expect(offsets).toEqual([before, after, after, before, after])
  })

  it.each([
    'Europe/Berlin',
    'America/Sao_Paulo',
    'Africa/Casablanca',
    'Africa/Monrovia',
    'Africa/Cairo',
  ])('%s at any time', (name) => {
    const zone = parseTimeZone(name)
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2_147_483_647 }), (seconds) => {
        expect(zone.offset(seconds)).toBe(intlOffset(name, seconds))
      }),
      { numRuns: 500 },
    )
  })
})

/** Asks Intl afresh. */
function intlOffset(timeZone: string, seconds: number): number {
  const local = new Date(seconds * 1000).toLocaleString('sv-SE', { timeZone })
  return Date.parse(`${local.replace(' ', 'T')}Z`) / 1000 - seconds
}
