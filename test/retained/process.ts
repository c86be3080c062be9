/** A process for the crash test: goes on with the log in the folder given, says so, and writes until it is killed. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Writer } from '../../src/retained/writer.ts'
import { limits, make } from './made.ts'

const [dir = '', count = ''] = process.argv.slice(2)
const made = await make(Number(count), true)
const writer = new Writer(dir, {
  instance: 'orders',
  filter: 'all',
  limits: { ...limits, segmentBytes: 20_000 },
  log: { info: () => {}, warn: () => {} },
  failed: () => process.exit(1),
})
const end = writer.end ?? made.start
await writer.begin(end, 'UTC')
process.stdout.write('ready\n')
// what it has already is given once more: it takes only what is new
for (const tx of made.all) {
  const before = writer.end
  await writer.append(tx)
  if (writer.end !== before) await sleep(tx.bytes % 7)
}
await writer.close()
process.stdout.write('done\n')
