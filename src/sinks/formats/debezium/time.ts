/**
 * Dates and times out of MySQL's text, read as digits in a buffer. Zero dates and dates with a zero month or day are no
 * day of the calendar: undefined.
 */
import type { Out } from '../../../out.ts'

const two = (buf: Buffer, at: number): number => (buf[at]! - 0x30) * 10 + buf[at + 1]! - 0x30

/** Days since 1970 of `YYYY-MM-DD` at `at`, in the Gregorian calendar. */
export function daysOf(buf: Buffer, at: number): number | undefined {
  let year = two(buf, at) * 100 + two(buf, at + 2)
  const month = two(buf, at + 5)
  const day = two(buf, at + 8)
  if (month === 0 || day === 0) return undefined
  // years begin in March, eras have 400 years
  if (month <= 2) year--
  const era = Math.floor(year / 400)
  const ofEra = year - era * 400
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1
  const dayOfEra = ofEra * 365 + Math.floor(ofEra / 4) - Math.floor(ofEra / 100) + dayOfYear
  return era * 146_097 + dayOfEra - 719_468
}
/** Seconds since 1970 of `YYYY-MM-DD HH:MM:SS` at `at`, read as UTC. */
export function secondsOf(buf: Buffer, at: number): number | undefined {
  const days = daysOf(buf, at)
  if (days === undefined) return undefined
  return days * 86_400 + two(buf, at + 11) * 3600 + two(buf, at + 14) * 60 + two(buf, at + 17)
}
/** Microseconds of `.f` at [at, end); 0 where nothing stands. */
export function fractionOf(buf: Buffer, at: number, end: number): number {
  let micros = 0
  let digits = 0
  for (let i = at + 1; i < end; i++, digits++) micros = micros * 10 + buf[i]! - 0x30
  for (; digits < 6; digits++) micros *= 10
  return micros
}
/** Writes seconds and micros as one number of microseconds, beyond 2^53 too. */
export function writeMicros(seconds: number, micros: number, out: Out): void {
  const total = seconds * 1_000_000 + micros
  if (Number.isSafeInteger(total)) out.int(total)
  else out.ascii(String(BigInt(seconds) * 1_000_000n + BigInt(micros)))
}
