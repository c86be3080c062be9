/** The ceiling of the file sink: lines that were made beforehand, a megabyte a write, synced every 8 MiB as the sink does. */
import { open } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { narrow, PREPARED, rows, timed, url, version } from './common.ts'

const lines = Array.from({ length: PREPARED }, (_, id) =>
  JSON.stringify({
    op: 'insert',
    database: 'bench',
    table: 'narrow',
    after: narrow(id),
    version: version(id),
  }),
)
const CHUNK = 4000
const chunks: Buffer[] = []
for (let from = 0; from < PREPARED; from += CHUNK)
  chunks.push(Buffer.from(`${lines.slice(from, from + CHUNK).join('\n')}\n`))
const file = await open(fileURLToPath(url), 'w')

await timed(async () => {
  for (let n = 0; n * CHUNK < rows; n++) {
    await file.write(chunks[n % chunks.length]!)
    if (n % 8 === 7) await file.datasync()
  }
  await file.datasync()
})
