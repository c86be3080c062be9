/**
 * Reading, creating, replacing and removing instance files through the API. What changes a file names the content that it
 * changes (If-Match, or If-None-Match: * for a new file), and is followed at once, as an edit by hand is. All of it is for
 * operators: who may write these files decides what is read and where it is written to.
 */
import * as z from 'zod'
import type { Seen, Written } from '../files/files.ts'
import { Refused } from '../refused.ts'
import { route, type Asked, type Route } from './route.ts'

const PATH = '/instances/{destination}/config'

const tag = z.string().describe('SHA-256 of the content, in hex; also in the ETag header')
const fileView = z.strictObject({
  file: z.string().describe('its name in the instances folder'),
  yaml: z
    .string()
    .describe(
      'as it stands there, but a mark like (hidden 5f2c91aa) for every secret; ${NAME} is kept as written',
    ),
  hidden: z.int().describe('how many secrets are hidden'),
  tag,
  writable: z.boolean().describe('false: it can only be changed where it is kept'),
})
const writtenView = z.strictObject({
  before: tag.nullable().describe('null: there was no file'),
  after: tag.nullable().describe('null: there is none any more'),
})

export const configReads: readonly Route[] = [
  route({
    method: 'GET',
    path: PATH,
    summary: 'The file of an instance as text, without its secrets',
    role: 'operator',
    reply: fileView,
    tag: (reply) => reply.tag,
    run: ({ files }, { params }) => files.read(params['destination']!),
  }),
]
export const configActions: readonly Route[] = [
  route({
    method: 'PUT',
    path: PATH,
    summary:
      'Replace the file of an instance, or create one; nothing is written while anything is wrong with it',
    role: 'operator',
    conditional: true,
    body: z.strictObject({
      yaml: z.string().describe('a mark stands for the secret of the file that it was shown for'),
    }),
    reply: writtenView,
    tag: (reply) => reply.after ?? undefined,
    noted: () => '',
    outcome: hashes,
    run: async (panel, asked) => {
      const { params, body } = asked
      const written = panel.files.write(params['destination']!, body.yaml, seenBy(asked))
      await panel.fleet.scan()
      return written
    },
  }),
  route({
    method: 'DELETE',
    path: PATH,
    summary:
      'Remove the file of an instance, which stops; its positions stay in dataDir, for a file of the same name',
    role: 'operator',
    conditional: true,
    reply: writtenView,
    outcome: hashes,
    run: async (panel, asked) => {
      const written = panel.files.remove(asked.params['destination']!, seenBy(asked))
      await panel.fleet.scan()
      return written
    },
  }),
]

function hashes({ before, after }: Written): string {
  return `sha256 before ${before ?? 'none'}, after ${after ?? 'none'}`
}
/** Throws Refused: 428 when the request does not say. */
function seenBy({ headers }: Asked<unknown, unknown>): Seen {
  const match = headers['if-match']?.trim()
  const none = headers['if-none-match']?.trim()
  if (match === '*') return 'any'
  if (none === '*' && match === undefined) return 'absent'
  const [, named] = /^"([0-9a-f]{64})"$/.exec(match ?? '') ?? []
  if (named !== undefined) return { tag: named }
  const message =
    'expected If-Match with the ETag of the file as it was read, or If-None-Match: * for a new one'
  throw new Refused(match === undefined ? 428 : 400, 'REQUEST_INVALID', message)
}
