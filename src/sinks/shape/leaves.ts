/**
 * Leaves of the sinks' option schemas: each says what it expects in words, which is what a problem in an instance file
 * shows. Sizes come out as bytes, times as milliseconds. Knows no sink and no key.
 */
import * as z from 'zod'

export const integer = (error: string, min: number, max: number) =>
  z.int({ error }).min(min, { error }).max(max, { error })
export const text = (error: string) => z.string({ error }).min(1, { error })
export const flag = () => z.boolean({ error: 'true or false' })
export const oneOf = <const T extends readonly string[]>(values: T) =>
  z.enum(values, { error: `one of ${values.join(', ')}` })
export const section = <T extends z.core.$ZodLooseShape>(shape: T) =>
  z.strictObject(shape, { error: 'a mapping of keys' })

type Units = Readonly<Record<string, number>>
const sizes: Units = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 }
const times: Units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** A number, or a text with a unit; comes out as a whole number of the smallest unit. */
function quantity(units: Units, [min, max]: [string, string], what: string) {
  const error = `${what.replace('MIN', min).replace('MAX', max)}`
  const pattern = new RegExp(`^(\\d+(?:\\.\\d+)?) ?(${Object.keys(units).join('|')})?$`)
  const parse = (v: string): number => {
    const match = pattern.exec(v)
    return Math.round(Number(match?.[1]) * (units[match?.[2] ?? ''] ?? 1))
  }
  const [least, most] = [parse(min), parse(max)]
  return z
    .union([z.number({ error }), z.string({ error }).regex(pattern, { error })], { error })
    .transform((v) => (typeof v === 'number' ? v : parse(v)))
    .refine((v) => Number.isInteger(v) && v >= least && v <= most, { error })
}
export const bytes = (min: string, max: string) =>
  quantity(sizes, [min, max], 'a size from MIN to MAX, as a number of bytes or like 32MiB')
export const duration = (min: string, max: string) =>
  quantity(times, [min, max], 'a time from MIN to MAX, as a number of milliseconds or like 5s')
