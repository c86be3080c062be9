/**
 * What a route of the API is: a line in a table, with schemas of what comes in and goes out. The server looks routes up, checks
 * who asks and what came, and runs them; the OpenAPI document is made of the same table. A new route is one entry in reads.ts
 * or actions.ts. Knows no sockets.
 */
import * as z from 'zod'
import type { Role } from '../../config/admin.ts'
import type { Who } from '../auth.ts'
import type { Panel } from '../panel.ts'

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'
/** A request that was checked. */
export interface Asked<Q, B> {
  readonly params: Readonly<Record<string, string>> // of the path
  readonly query: Q
  readonly body: B
  readonly who: Who
}
export interface Route {
  readonly method: Method
  readonly path: string // "/instances/{destination}"
  readonly summary: string
  readonly role: Role
  readonly query: z.ZodObject
  readonly body: z.ZodType | undefined
  readonly reply: z.ZodType
  /** What the audit log says of a body; left out, the body as it is. */
  readonly noted?: ((body: unknown) => string) | undefined
  run(panel: Panel, asked: Asked<unknown, unknown>): unknown
}
const NO_QUERY = z.strictObject({})

/** One entry of the table, with the types of its schemas. */
export function route<
  R extends z.ZodType,
  Q extends z.ZodObject = typeof NO_QUERY,
  B extends z.ZodType = z.ZodUndefined,
>(entry: {
  readonly method: Method
  readonly path: string
  readonly summary: string
  readonly role: Role
  readonly query?: Q
  readonly body?: B
  readonly reply: R
  readonly noted?: (body: z.output<B>) => string
  readonly run: (
    panel: Panel,
    asked: Asked<z.output<Q>, z.output<B>>,
  ) => z.input<R> | Promise<z.input<R>>
}): Route {
  const { run, query, body, noted, ...rest } = entry
  return {
    ...rest,
    noted: noted && ((value) => noted(value as z.output<B>)),
    query: query ?? NO_QUERY,
    body,
    run: (panel, asked) => run(panel, asked as Asked<z.output<Q>, z.output<B>>),
  }
}
