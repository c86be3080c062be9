/**
 * The ceiling of the Redis sink: ioredis sends the sink's own fenced script with keys and documents that were made
 * beforehand, 256 rows a call, 16 calls on the way. What plain SET would do is printed beside it.
 */
import { Redis } from 'ioredis'
import { SCRIPT, SCRIPT_SHA } from '../../src/sinks/redis/script.ts'
import { narrow, PREPARED, timed, url, version } from './common.ts'

const CALL = 256
const ON_THE_WAY = 16
const client = new Redis(url)
await client.script('LOAD', SCRIPT)
const documents = Array.from({ length: PREPARED }, (_, id) =>
  Buffer.from(JSON.stringify(narrow(id))),
)
const OWNER = 'bench/bench.narrow'

function call(from: number, end: number): Promise<unknown> {
  const keys: string[] = []
  const values: (string | Buffer)[] = [OWNER, '604800000', 'f'.repeat(40), '0']
  for (let id = from; id < Math.min(from + CALL, end); id++) {
    keys.push(`sluice:v:{narrow:${id}}`, `narrow:${id}`)
    values.push('s', version(id) + OWNER, '', documents[id % PREPARED]!)
  }
  return client.evalsha(SCRIPT_SHA, keys.length, ...keys, ...values)
}

await timed(async (begin, end) => {
  for (let from = begin; from < end; from += CALL * ON_THE_WAY) {
    const calls: Promise<unknown>[] = []
    for (let at = from; at < Math.min(from + CALL * ON_THE_WAY, end); at += CALL)
      calls.push(call(at, end))
    await Promise.all(calls)
  }
})
