/**
 * What a route of the API is: a line in a table, with schemas of what comes in and goes out. The server looks routes up, checks
 * who asks and what came, and runs them; the OpenAPI document is made of the same table. A new route is one entry in reads.ts,
 * actions.ts or config.ts. Knows no sockets.
 */
import type { IncomingHttpHeaders } from 'node:http'
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
  readonly headers: IncomingHttpHeaders
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
  /** What the audit log says once it is done; left out, nothing more. */
  readonly outcome?: ((reply: unknown) => string) | undefined
  /** What the ETag header of the answer says. */
  readonly tag?: ((reply: unknown) => string | undefined) | undefined
  /** It needs If-Match or If-None-Match. */
  readonly conditional: boolean
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
  readonly outcome?: (reply: z.input<R>) => string
  readonly tag?: (reply: z.input<R>) => string | undefined
  readonly conditional?: boolean
  readonly run: (
    panel: Panel,
    asked: Asked<z.output<Q>, z.output<B>>,
  ) => z.input<R> | Promise<z.input<R>>
}): Route {
  const { run, query, body, noted, outcome, tag, conditional = false, ...rest } = entry
  return {
    ...rest,
    conditional,
    noted: noted && ((value) => noted(value as z.output<B>)),
    outcome: outcome && ((reply) => outcome(reply as z.input<R>)),
    tag: tag && ((reply) => tag(reply as z.input<R>)),
    query: query ?? NO_QUERY,
    body,
    run: (panel, asked) => run(panel, asked as Asked<z.output<Q>, z.output<B>>),
  }
}
