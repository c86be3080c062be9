/**
 * An incident: the source itself says that its log lacks changes. Only a debug build can be made to write one, so it is written into
 * a log file of a server that is down, as the server would have (Incident_log_event in sql/log_event.cc); the server that is
 * started again serves it like any other event. MariaDB's LOST_EVENTS is the same event.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { eventNextPosition, eventSize, eventType, eventTypes } from '../../src/binlog/reader.ts'
import { run } from '../commands/run.ts'
import { privateMysql, versions, type MysqlVersion } from '../support/mysql.ts'
import { newest, Rig, sourceOf } from './rig.ts'

let rig: Rig
beforeEach(() => {
  rig = new Rig()
})
afterEach(() => rig.close())

/** Puts the incident in front of the last event of a closed log file, which moves back; says where it begins and ends. */
function spoil(file: string, message: string): { start: number; end: number } {
  const log = readFileSync(file)
  let last = 4
  while (last + eventSize(log, last) < log.length) last += eventSize(log, last)
  expect(eventType(log, last)).toBe(eventTypes.ROTATE)
  const size = 19 + 3 + message.length + 4
  const incident = Buffer.alloc(size)
  log.copy(incident, 0, last, last + 19) // time and server
  incident[4] = eventTypes.INCIDENT
  incident.writeUInt32LE(size, 9)
  incident.writeUInt16LE(0, 17)
  incident.writeUInt16LE(1, 19) // events were lost
  incident[21] = message.length
  incident.write(message, 22, 'latin1')
  const rotate = Buffer.from(log.subarray(last))
  for (const [event, at] of [
    [incident, last],
    [rotate, last + size],
  ] as const) {
    event.writeUInt32LE(at + event.length, 13)
    event.writeUInt32LE(crc32(event.subarray(0, -4)), event.length - 4)
    expect(eventNextPosition(event, 0)).toBe(at + event.length)
  }
  writeFileSync(file, Buffer.concat([log.subarray(0, last), incident, rotate]))
  return { start: last, end: last + size }
}

const servers: [MysqlVersion, string, string[]][] = [
  [newest(versions), 'with GTIDs', []],
  [newest(versions), 'without GTIDs', ['--gtid-mode=OFF', '--enforce-gtid-consistency=OFF']],
  ['mariadb-10.11', 'LOST_EVENTS', []],
]

describe.each(servers)('an incident in the log of %s, %s', (version, _, args) => {
  test('stops the instance, which says where, and how it goes on', async () => {
    await using mysql = await privateMysql(version, { args })
    const insert = (id: number) => mysql.query(`INSERT INTO p8.t VALUES (${id})`)
    await mysql.query('CREATE DATABASE p8; CREATE TABLE p8.t (id INT PRIMARY KEY)')
    let instance = rig.open({ source: sourceOf(mysql) })
    instance.start()
    await rig.state(instance, 'running')
    await insert(1)
    let cursor = instance.store!.subscribe('1001')
    expect(await rig.read(cursor, 1)).toEqual([1])
    await instance.stop()

    await insert(2)
    const logs = await mysql.query<{ Log_name: string }>('SHOW BINARY LOGS')
    const file = logs.at(-1)!.Log_name
    await mysql.query('FLUSH BINARY LOGS')
    await insert(3)
    await mysql.stop()
    const { start, end } = spoil(join(mysql.dataDir!, file), 'error writing to the binary log')
    await mysql.start()

    instance = rig.open({ source: sourceOf(mysql) })
    cursor = instance.store!.subscribe('1001')
    instance.start()
    await rig.state(instance, 'failed')
    const text =
      `${file}:${start}: the source reports incident 1 (error writing to the binary log): changes may be missing from its binlog there. ` +
      `Compare the data; then go on behind it: sluice position <destination> set ${file}:${end}`
    expect(instance.status).toMatchObject({ error: { code: 'INCIDENT', message: text } })
    // what came before it was delivered
    expect(await rig.read(cursor, 2)).toEqual([2])
    await instance.stop()
    // and it is no accident
    instance = rig.open({ source: sourceOf(mysql) })
    instance.start()
    await rig.state(instance, 'failed')
    expect(instance.status).toMatchObject({ error: { code: 'INCIDENT' } })
    await instance.stop()

    const config = join(rig.dir, 'server.yaml')
    writeFileSync(config, stringify({ instancesDir: rig.dir, dataDir: rig.dir }))
    const set = await run('position', 'orders', 'set', `${file}:${end}`, '-c', config)
    expect(set).toMatchObject({ code: 0 })
    instance = rig.open({ source: sourceOf(mysql) })
    cursor = instance.store!.subscribe('1001')
    instance.start()
    expect(await rig.read(cursor, 3)).toEqual([3])
    expect(instance.status.state).toBe('running')
    await instance.stop()
  })
})
