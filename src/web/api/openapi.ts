/**
 * The OpenAPI document, made of the table of routes: what is served is what is described. JSON Schemas come from the same zod
 * schemas that requests are checked with.
 */
import * as z from 'zod'
import type { Route } from './route.ts'
import { errorView, faultView } from './views.ts'

export const API = '/api/v1'

type Json = Readonly<Record<string, unknown>>

const asJson = (schema: z.ZodType, io: 'input' | 'output'): Json => {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'any' })
  return rest
}
const content = (schema: Json): Json => ({ 'application/json': { schema } })

const errorReply = z.strictObject({
  error: errorView.extend({
    problems: z.array(faultView).optional().describe('of a text that was sent'),
  }),
})
const conditions = ['If-Match', 'If-None-Match'].map((name) => ({
  name,
  in: 'header',
  required: false,
  description: 'One of them is needed: the ETag of what is replaced, or * for what is new',
  schema: { type: 'string' },
}))

/** OpenAPI 3.1. */
export function openApi(routes: readonly Route[], version: string): Json {
  const paths: Record<string, Record<string, Json>> = {}
  for (const route of routes)
    (paths[route.path] ??= {})[route.method.toLowerCase()] = operation(route)
  return {
    openapi: '3.1.0',
    info: {
      title: 'Sluice',
      version,
      description: 'What a Sluice is doing, and how to steer it. Explained in docs/admin.md',
    },
    servers: [{ url: API }],
    security: [{ token: [] }, { password: [] }],
    paths,
    components: {
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer' },
        password: { type: 'http', scheme: 'basic' },
      },
      responses: {
        Error: {
          description: 'It was not done',
          content: content(asJson(errorReply, 'output')),
        },
      },
    },
  }
}

function operation(route: Route): Json {
  const { method, path, summary, role, query, body, reply, conditional } = route
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }))
  const inQuery = Object.entries(query.shape).map(([name, schema]) => ({
    name,
    in: 'query',
    required: false,
    schema: asJson(schema as z.ZodType, 'output'),
  }))
  const stream = reply instanceof z.ZodVoid
  return {
    operationId: `${method.toLowerCase()}${path.replace(/\W+(\w)/g, (_, c: string) => c.toUpperCase()).replace(/\W/g, '')}`,
    summary,
    'x-role': role,
    parameters: [...inPath, ...inQuery, ...(conditional ? conditions : [])],
    ...(body && { requestBody: { required: true, content: content(asJson(body, 'input')) } }),
    responses: {
      200: {
        description: 'Done',
        content: stream ? { 'text/event-stream': {} } : content(asJson(reply, 'output')),
      },
      default: { $ref: '#/components/responses/Error' },
    },
  }
}
