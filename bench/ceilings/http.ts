/** The ceiling of the HTTP sink: batches of 100 events that were made beforehand, posted by the sink's own poster, 8 at once. */
import { Poster } from '../../src/sinks/http/post.ts'
import { narrow, rows, timed, url, version } from './common.ts'

const BATCH = 100
const AT_ONCE = 8
const poster = new Poster({ url, concurrency: AT_ONCE, timeoutMs: 10_000, headers: {}, tls: {} })
const event = (id: number): object => ({
  specversion: '1.0',
  id: version(id),
  source: '/sluice/bench',
  type: 'sluice.insert',
  subject: `bench.narrow/${id}`,
  time: '2026-01-01T00:00:00Z',
  data: { after: narrow(id) },
})
const body = Buffer.from(JSON.stringify(Array.from({ length: BATCH }, (_, id) => event(id))))
const headers = { 'content-type': 'application/cloudevents-batch+json' }

await timed(async () => {
  let left = rows / BATCH
  const worker = async (): Promise<void> => {
    while (left-- > 0) {
      const answer = await poster.post(body, headers, new AbortController().signal)
      if (answer.kind !== 'done') throw new Error(answer.message)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
})
