/**
 * The ceiling of the HTTP sink: its own poster sends events, as many in a request as the URL says, as many requests at once and
 * with the same headers as the sink. Prepared is one event for each row, as bytes and as large as the sink's; what
 * makes a list of a hundred of them, and the receiver, are work that whoever posts such lists has as well, so it is timed.
 * (One body posted again and again, as it was here before, measures a socket and no client that has rows to send.)
 */
import { Poster } from '../../src/sinks/http/post.ts'
import { narrow, PREPARED, timed, url, version } from './common.ts'

const BATCH = Number(new URL(url).searchParams.get('events'))
const AT_ONCE = 8
const poster = new Poster({ url, concurrency: AT_ONCE, timeoutMs: 10_000, headers: {}, tls: {} })
const idOf = (n: number): string => `3e11fa47-71ca-11e1-9e33-c80aa9429562:17/${n >> 5}.${n & 31}`
function event(n: number): object {
  const subject = `bench.narrow/${n}`
  const time = '2026-01-01T00:00:00.000Z'
  const about = { database: 'bench', table: 'narrow', key: { id: n }, before: null }
  const stamp = {
    version: version(n),
    id: idOf(n),
    position: 'binlog.000002:1234567',
    ts: 1767225600000,
  }
  return {
    specversion: '1.0',
    id: idOf(n),
    source: '/sluice/bench',
    type: 'sluice.bench.narrow.insert',
    subject,
    time,
    partitionkey: subject,
    sluiceversion: version(n),
    datacontenttype: 'application/json',
    data: { kind: 'row', op: 'insert', ...about, after: narrow(n), ...stamp },
  }
}
const events = Array.from({ length: PREPARED }, (_, n) => Buffer.from(JSON.stringify(event(n))))
const [open, comma, close] = ['[', ',', ']'].map((text) => Buffer.from(text)) as [
  Buffer,
  Buffer,
  Buffer,
]

function bodyOf(from: number, to: number): Buffer {
  const parts: Buffer[] = []
  for (let n = from; n < to; n++) parts.push(n === from ? open : comma, events[n % PREPARED]!)
  parts.push(close)
  return Buffer.concat(parts)
}

await timed(async (begin, end) => {
  let next = begin
  const { signal } = new AbortController()
  const worker = async (): Promise<void> => {
    while (next < end) {
      const from = next
      const to = (next = Math.min(end, from + BATCH))
      const headers = {
        'content-type': `application/cloudevents${BATCH > 1 ? '-batch' : ''}+json`,
        'idempotency-key': BATCH > 1 ? `${idOf(from)}..${idOf(to - 1)}` : idOf(from),
      }
      const body = BATCH > 1 ? bodyOf(from, to) : events[from % PREPARED]!
      const answer = await poster.post(body, headers, signal)
      if (answer.kind !== 'done') throw new Error(answer.message)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
})
