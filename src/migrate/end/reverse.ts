/**
 * The way back: an instance that streams what is written to the target, from the cut-over on, into the source. Written down
 * as an instance file for a server, and run by the migration itself where that was asked for.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { stringify } from 'yaml'
import { instanceOf } from '../../config/config.ts'
import { SluiceError } from '../../errors.ts'
import { Instance } from '../../instance.ts'
import { urlOf, type Endpoint } from '../options.ts'
import type { Parts } from '../parts.ts'
import { keyRules } from '../schema/inventory.ts'
import { filterOf, sourceOf } from '../source.ts'

const LOOK_MS = 200
const BOOKKEEPING = 'sluice_migrate'

/** While the source can still be written to. Throws SOURCE_UNSUITABLE where its triggers would run a second time. */
export async function prepareReverse({ source }: Parts): Promise<void> {
  const { objects } = await source.inventory()
  const triggers = objects.filter(({ kind }) => kind === 'trigger')
  if (triggers.length > 0) {
    const names = triggers.map(({ database, name }) => `${database}.${name}`).join(', ')
    throw new SluiceError(
      'SOURCE_UNSUITABLE',
      `--reverse: the source has triggers, which would run again for rows that come back: ${names}; drop them there at the cut-over, or leave --reverse out`,
    )
  }
  await source.query(`CREATE DATABASE IF NOT EXISTS ${BOOKKEEPING}`)
}

/** As a sink has it: it knows no "preferred". */
function sinkTls({ tls = '', ca }: Endpoint): object {
  if (tls === 'required') return { tls }
  return tls.startsWith('verify') ? { tls: 'verify', ca } : {}
}

/** Streams back until it is told to stop; the same command goes on with it. Throws what stops the instance. */
export async function reverse({ options, folder, host, source }: Parts): Promise<void> {
  const { target: place } = folder.now.cutOver!
  if (place === undefined)
    throw new SluiceError(
      'SINK_UNSUITABLE',
      '--reverse: expected a target with a binlog, found none at the cut-over',
    )
  const { tables } = await source.inventory()
  const keys = (from: object, url: string): object => ({
    source: from,
    start: { file: place.file, offset: place.offset },
    filter: filterOf(options.wanted),
    sinks: {
      back: {
        type: 'sql',
        url,
        ...sinkTls(options.from),
        ddl: options.ddl,
        unloggedChange: 'ignore',
        tables: keyRules(tables),
      },
    },
  })
  const home = { ...options.from, database: BOOKKEEPING }
  const file = join(folder.dir, 'reverse.yaml')
  if (!existsSync(file)) {
    const secret = '@SLUICE_FROM_PASSWORD@'
    const url = urlOf({ ...home, password: secret }, true).replace(
      encodeURIComponent(secret),
      '${SLUICE_FROM_PASSWORD}',
    )
    const text = stringify(
      keys({ ...sourceOf(options.to), password: '${SLUICE_TO_PASSWORD}' }, url),
    )
    writeFileSync(
      file,
      `# For a server's instances folder, in place of "sluice migrate --reverse": what is written to the target since the\n# cut-over, back into the source. SLUICE_FROM_PASSWORD stands in a URL: percent-encode it.\n${text}`,
      { mode: 0o600 },
    )
  }
  const id = `${folder.now.id}-reverse`
  const config = instanceOf(id, keys(sourceOf(options.to), urlOf(home, true)))
  const instance = Instance.open({
    name: id,
    config,
    dataDir: folder.dir,
    log: host.log.child({ instance: id }),
  })
  try {
    instance.start()
    host.report({
      event: 'phase',
      phase: 'done',
      text: 'streaming back into the source, until you stop it',
    })
    while (!host.signal.aborted) {
      const { status } = instance
      const [sink] = status.sinks
      if (status.state === 'failed') throw status.error
      if (sink?.state === 'failed') throw sink.error
      await sleep(LOOK_MS, undefined, { signal: host.signal }).catch(() => undefined)
    }
  } finally {
    await instance.stop()
  }
}
