/**
 * The leaves of configuration schemas: what a size, a time, a flag or a path is, in one place for the configuration files
 * and for the options of sinks. Each says what it expects in words, for the message. Knows no key.
 */
import * as z from 'zod'
import { Template } from '../sinks/shape/template.ts'

/** A whole number from min to max; `error` says so. */
export const integer = (error: string, min: number, max: number) =>
  z.int({ error }).min(min, { error }).max(max, { error })
/** Text that is not empty. */
export const text = (error: string) => z.string({ error }).min(1, { error })
/** true or false. */
export const flag = () => z.boolean({ error: 'true or false' })
/** One of a few words. */
export const oneOf = <const T extends readonly string[]>(values: T) =>
  z.enum(values, { error: `one of ${values.join(', ')}` })

const sizeUnits: Record<string, number> = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 }
const timeUnits: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** A number, or a text with a unit; comes out as a whole number of the smallest unit. */
function quantity(
  pattern: RegExp,
  units: Record<string, number>,
  error: string,
  [min, max]: [number, number],
) {
  return z
    .union([z.number({ error }), z.string({ error }).regex(pattern, { error })], { error })
    .transform((v) => {
      if (typeof v === 'number') return v
      const match = pattern.exec(v)
      return Math.round(Number(match?.[1]) * (units[match?.[2] ?? ''] ?? 1))
    })
    .refine((v) => Number.isInteger(v) && v >= min && v <= max, { error })
}
/** A size, as a number of bytes or like 32MiB; comes out in bytes. */
export const bytes = (min: string, max: string) =>
  quantity(
    /^(\d+(?:\.\d+)?) ?(B|KiB|MiB|GiB)?$/,
    sizeUnits,
    `a size from ${min} to ${max}, as a number of bytes or like 32MiB`,
    [parse(min, sizeUnits), parse(max, sizeUnits)],
  )
/** A time, as a number of milliseconds or like 5s; comes out in milliseconds. */
export const duration = (min: string, max: string) =>
  quantity(
    /^(\d+(?:\.\d+)?) ?(ms|s|m|h)?$/,
    timeUnits,
    `a time from ${min} to ${max}, as a number of milliseconds or like 5s`,
    [parse(min, timeUnits), parse(max, timeUnits)],
  )
function parse(quantityText: string, units: Record<string, number>): number {
  const unit = quantityText.replace(/^[\d.]+/, '')
  return parseFloat(quantityText) * (units[unit] ?? 1)
}

/** A TCP port. */
export const port = () => integer('a TCP port, 1 to 65535', 1, 65_535)
/** A path to `what`. */
export const path = (what: string) => text(`a path to ${what}`)
/** A mapping that has these keys and no others. */
export const section = <T extends z.core.$ZodLooseShape>(shape: T) =>
  z.strictObject(shape, { error: 'a mapping of keys' })
/** A value that must not be shown: any text, numbers too, for digits are easily written without quotes. */
export const secret = (what: string) =>
  z.string({ error: `${what} as text (put digits in quotes)` })
/** TLS of a port of ours. */
export const serverTls = section({
  cert: path('the certificate chain in PEM form').describe('Certificate chain, PEM file'),
  key: path('the private key in PEM form').describe('Private key, PEM file'),
  ca: path('the certificates of client authorities in PEM form')
    .optional()
    .describe('Demand client certificates signed by one of these authorities, PEM file'),
})
/** Regular expressions over database.table, as one text or a list. */
export const patterns = (what: string) => {
  const error = `${what} as text or a list of texts`
  return z.union([z.string({ error }), z.array(text(error), { error })], { error })
}
/** A template of names (sinks/shape/template.ts); comes out compiled. `columns`: whether it may name columns. */
export const template = (what: string, columns = true) => {
  const names = columns ? '{database}, {table}, {key} and columns' : '{database} and {table}'
  const error = `${what}, in which ${names} may stand in braces`
  return z
    .string({ error })
    .min(1, { error })
    .transform((value, context) => {
      try {
        const made = new Template(value)
        if (columns || made.columns.length === 0) return made
      } catch {
        // the same words
      }
      context.addIssue({ code: 'custom', message: error, input: value })
      return z.NEVER
    })
}
