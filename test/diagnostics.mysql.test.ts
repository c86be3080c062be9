/** The messages of the diagnostics channels are what docs/diagnostics.md says, field by field. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { batchChannel } from '../src/diagnostics.ts'
import { sharedMysql, uniqueDatabase, versions } from './support/mysql.ts'
import { Rig, sourceOf } from './upstream/rig.ts'

/** Fields by channel, as the manual lists them. */
function manual(): Map<string, string[]> {
  const fields = new Map<string, string[]>()
  let name = ''
  for (const line of readFileSync('docs/diagnostics.md', 'utf8').split('\n')) {
    const [, channel, list] =
      /^\| (?:`(sluice:[\w:]+)`)? *\| ((?:`\w+`(?:, )?)*) *\|/.exec(line) ?? []
    if (channel !== undefined) fields.set((name = channel), [])
    if (list) fields.get(name)!.push(...[...list.matchAll(/`(\w+)`/g)].map((m) => m[1]!))
  }
  return fields
}

test('an instance and its sink say what they do, and nobody is told who has stopped listening', async () => {
  const heard = new Map<string, Record<string, unknown>[]>()
  const fields = manual()
  expect([...fields.keys()]).toEqual([
    'sluice:state',
    'sluice:batch',
    'sluice:ack',
    'sluice:sink:write',
  ])
  const listeners = [...fields.keys()].map((name) => {
    heard.set(name, [])
    const take = (message: unknown) =>
      void heard.get(name)!.push(message as Record<string, unknown>)
    subscribe(name, take)
    return { name, take }
  })
  const mysql = await sharedMysql(versions[0]!)
  const database = uniqueDatabase('diag')
  await mysql.query(`CREATE DATABASE ${database}; CREATE TABLE ${database}.t (id INT PRIMARY KEY)`)
  const rig = new Rig()
  const instance = rig.open({
    source: sourceOf(mysql),
    filter: { include: `${database}\\..*` },
    sinks: { lines: { type: 'file', path: join(rig.dir, 'lines') } },
  })
  try {
    instance.start()
    await rig.state(instance, 'running')
    await mysql.query(`INSERT INTO ${database}.t VALUES (1), (2), (3)`)
    await rig.until(() => heard.get('sluice:ack')!.length > 0)
    for (const [name, messages] of heard)
      expect([name, messages.map((m) => Object.keys(m).sort())[0]]).toEqual([
        name,
        fields.get(name)!.toSorted(),
      ])
    const states = heard.get('sluice:state')!
    expect(states.filter((m) => m['sink'] === undefined).map((m) => m['state'])).toEqual([
      'connecting',
      'running',
    ])
    expect(states.find((m) => m['sink'] === 'lines' && m['state'] === 'running')).toMatchObject({
      instance: 'orders',
      error: undefined,
    })
    const batch = heard.get('sluice:batch')!.at(-1)!
    expect(batch).toMatchObject({ instance: 'orders', client: 'sink:lines', redelivered: false })
    const acked = heard.get('sluice:ack')!.find((m) => m['id'] === batch['id'])
    expect(acked).toMatchObject({ changes: batch['changes'], bytes: batch['bytes'] })
    const rows = heard.get('sluice:sink:write')!.map((m) => m['rows'] as number)
    expect(rows.reduce((a, b) => a + b, 0)).toBe(3)
  } finally {
    for (const { name, take } of listeners) unsubscribe(name, take)
    await instance.stop()
    rig.close()
    await mysql.query(`DROP DATABASE ${database}`)
  }
  expect(batchChannel.hasSubscribers).toBe(false)
})
