/** What becomes of a Canal's files, key by key, and what the command says and writes. No source is reached. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { readInstallation } from '../../src/commands/canal/installation.ts'
import { fateKeys } from '../../src/commands/canal/keys.ts'
import { mapInstance, mapServer, noteServerRest } from '../../src/commands/canal/mapping.ts'
import { loadInstance, loadServer } from '../../src/config/config.ts'
import { inProcess } from './run.ts'

const SECRET = 'hunter2:#${X}'

/** A Canal's conf folder with these files, removed at the end. */
function canal(files: Record<string, string | Buffer>) {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-canal-'))
  for (const [name, content] of Object.entries(files)) {
    const path = join(dir, 'conf', name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, content)
  }
  return {
    dir,
    conf: join(dir, 'conf'),
    out: join(dir, 'out'),
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  }
}
function mapped(files: Record<string, string>, options = { envSecrets: false }, env = {}) {
  using c = canal(files)
  const installation = readInstallation(c.conf, { cursors: true, env })
  const server = mapServer(installation, options)
  const drafts = installation.destinations.map((d) => mapInstance(d, options))
  noteServerRest(server, installation)
  const notes = [server, ...drafts].flatMap((d) => d.notes)
  const keysOf = (kind: string): string[] => notes.filter((n) => n.kind === kind).map((n) => n.key)
  return { server, drafts, notes, keysOf, names: installation.destinations.map((d) => d.name) }
}

describe('destinations', () => {
  const own = 'canal.instance.master.address=db:3306\n'
  const three = {
    'a/instance.properties': own,
    'b1/instance.properties': own,
    'b2/instance.properties': own,
  }
  test.each([
    ['canal.destinations= a , b1', ['a', 'b1']],
    ['canal.destinations=a\ncanal.destinations.expr=b{1-2}', ['b1', 'b2']],
    ['canal.destinations=a\ncanal.auto.scan=true', ['a', 'b1', 'b2']],
  ])('%s', (text, names) => {
    expect(mapped({ 'canal.properties': text, ...three }).names).toEqual(names)
  })
  test('what is wrong is said', () => {
    expect(() => mapped({ 'canal.properties': 'canal.destinations.expr=b{2-1}' })).toThrow(
      'canal.properties:1: canal.destinations.expr: expected prefix{1-5}, found "b{2-1}"',
    )
    const { notes } = mapped({ 'canal.properties': 'canal.destinations=a,x', ...three })
    expect(notes).toContainEqual(
      expect.objectContaining({ kind: 'lost', text: 'x has no x/instance.properties' }),
    )
    expect(() => mapped({})).toThrow(
      'expected a configuration folder of Canal with canal.properties',
    )
  })
})

const canalProperties = `
canal.ip =
canal.port = 11112
canal.metrics.pull.port = 11113
canal.user = canal
canal.passwd = E3619321C1A937C46A0D8BD1DAC39F93B27D4458
canal.zkServers =
canal.destinations = orders
canal.conf.dir = ../conf
canal.file.data.dir = \${canal.conf.dir}
canal.serverMode = tcp
canal.instance.memory.buffer.size = 32768
canal.instance.memory.buffer.memunit = 1024
canal.instance.memory.batch.mode = MEMSIZE
canal.instance.filter.query.ddl = true
canal.instance.filter.query.dml = false
canal.instance.filter.table.error = true
canal.instance.tsdb.enable = true
canal.mq.flatMessage = true
kafka.bootstrap.servers = 127.0.0.1:9092
rocketmq.producer.group = test
canal.instance.global.spring.xml = classpath:spring/file-instance.xml
my.own.key = x
`
const instanceProperties = `
canal.instance.mysql.slaveId=1234
canal.instance.gtidon=true
canal.instance.master.address=db.example:3307
canal.instance.master.journal.name=mysql-bin.000003
canal.instance.master.position=4567
canal.instance.master.sslMode=VERIFY_CA
canal.instance.standby.address=other:3306
canal.instance.dbUsername=repl
canal.instance.dbPassword=${SECRET}
canal.instance.enableDruid=false
canal.instance.filter.regex=shop\\\\..*,crm\\\\.(a|b)
canal.instance.filter.black.regex=mysql\\\\.slave_.*
canal.instance.filter.field=shop.users:id/name
canal.instance.filter.black.field=shop.orders:note
canal.mq.topic=example
canal.mq.partition=0
`

describe('mapping', () => {
  const files = {
    'canal.properties': canalProperties,
    'orders/instance.properties': instanceProperties,
  }
  test('a usual installation, key by key', () => {
    const { server, drafts, keysOf } = mapped(files)
    expect(server.values).toEqual({
      canal: {
        host: '0.0.0.0',
        port: 11_112,
        user: 'canal',
        passwordHash: 'E3619321C1A937C46A0D8BD1DAC39F93B27D4458',
      },
    })
    expect(drafts[0]!.values).toEqual({
      source: {
        host: 'db.example',
        port: 3307,
        user: 'repl',
        password: 'hunter2:#$${X}',
        serverId: 1234,
        tls: { mode: 'verify-ca' },
      },
      filter: {
        include: 'shop\\..*,crm\\.(a|b)',
        exclude: 'mysql\\.slave_.*',
        columns: { include: 'shop.users:id/name', exclude: 'shop.orders:note' },
        statements: { ddl: false, dml: 'drop', dcl: false },
      },
      ambiguousSchema: 'positional',
      gtid: true,
      start: { file: 'mysql-bin.000003', offset: 4567 },
      windowBytes: '32MiB',
    })
    expect(keysOf('refused')).toEqual([])
    expect(keysOf('lost').sort()).toEqual([
      'canal.instance.standby.address',
      'canal.metrics.pull.port',
      'my.own.key',
    ])
    expect(keysOf('unneeded')).toEqual(['canal.instance.tsdb.enable'])
  })
  test('what is written is what the configuration reads, each value with its key', () => {
    using c = canal({})
    const { server, drafts } = mapped(files)
    mkdirSync(c.out)
    const [a, b] = [join(c.out, 'server.yaml'), join(c.out, 'orders.yaml')]
    writeFileSync(a, server.toString())
    writeFileSync(b, drafts[0]!.toString())
    expect(loadServer(a, {})).toMatchObject({ problems: [], config: { canal: { port: 11_112 } } })
    expect(loadInstance(b, {})).toMatchObject({
      problems: [],
      config: { source: { password: SECRET }, windowBytes: 32 * 1024 ** 2 },
    })
    expect(drafts[0]!.toString()).toMatch(
      /host: db\.example +# canal\.instance\.master\.address \(orders\/instance\.properties:4\)/,
    )
  })
  test('the environment wins, and secrets can be references to it', () => {
    const env = { 'canal.instance.master.address': 'elsewhere' }
    const { server, drafts, notes } = mapped(files, { envSecrets: true }, env)
    expect(drafts[0]!.values).toMatchObject({
      source: { host: 'elsewhere', port: 3306, password: '${SLUICE_ORDERS_PASSWORD}' },
    })
    expect(drafts[0]!.secrets).toEqual(new Map([['SLUICE_ORDERS_PASSWORD', SECRET]]))
    expect(server.values).toMatchObject({
      canal: { passwordHash: '${SLUICE_CANAL_PASSWORD_HASH}' },
    })
    expect(JSON.stringify(notes)).not.toContain('hunter2')
  })
  test('an encrypted password is asked for', () => {
    const { drafts, notes } = mapped({
      ...files,
      'orders/instance.properties': `${instanceProperties}canal.instance.enableDruid=true\ncanal.instance.pwdPublicKey=k`,
    })
    expect(drafts[0]!.values).toMatchObject({ source: { password: '${SLUICE_ORDERS_PASSWORD}' } })
    expect(notes).toContainEqual(
      expect.objectContaining({ kind: 'lost', key: 'canal.instance.enableDruid' }),
    )
  })
  test.each([
    ['', 'latest'],
    ['canal.instance.master.journal.name=b.000002', { file: 'b.000002' }],
    ['canal.instance.master.timestamp=1600000000000', { timestamp: 1_600_000_000_000 }],
    [
      'canal.instance.gtidon=true\ncanal.instance.master.gtid=3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5',
      { gtids: '3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5' },
    ],
  ])('start of "%s"', (text, start) => {
    const own = `canal.instance.master.address=db:1\n${text}`
    const { drafts } = mapped({
      'canal.properties': 'canal.destinations=a',
      'a/instance.properties': own,
    })
    expect(drafts[0]!.values).toMatchObject({ start })
  })
  test("a client's filter that is wider than the instance's loses nothing", () => {
    const meta = {
      clientDatas: [
        {
          clientIdentity: { clientId: 1001, filter: '.*\\..*' },
          cursor: { postion: { journalName: 'b.1', position: 4 } },
        },
      ],
    }
    const { drafts } = mapped({ ...files, 'orders/meta.dat': JSON.stringify(meta) })
    expect(drafts[0]!.values).toMatchObject({
      filter: { include: ['shop\\..*,crm\\.(a|b)', '.*\\..*'] },
    })
  })
  test('group mode, a port without its password and a missing address are refused', () => {
    const { keysOf } = mapped({
      'canal.properties':
        'canal.user=x\ncanal.destinations=a\ncanal.instance.a.spring.xml=classpath:spring/group-instance.xml',
      'a/instance.properties': '',
    })
    expect(keysOf('refused').sort()).toEqual([
      'canal.instance.global.spring.xml',
      'canal.instance.master.address',
      'canal.passwd',
    ])
  })
})

describe('message queues', () => {
  const kafka = (server: string, own = '') =>
    mapped({
      'canal.properties': `canal.serverMode=kafka\ncanal.destinations=a\nkafka.bootstrap.servers=k1:9092, k2:9092\n${server}`,
      'a/instance.properties': `canal.instance.master.address=db:1\ncanal.mq.topic=example\n${own}`,
    })
  const sink = (m: ReturnType<typeof kafka>) =>
    (m.drafts[0]!.values as { sinks: { kafka: object } }).sinks.kafka
  test('Kafka with a fixed partition', () => {
    const m = kafka(
      'canal.mq.flatMessage=true\nkafka.acks=1\nkafka.max.request.size=1048576',
      'canal.mq.partition=2',
    )
    expect(sink(m)).toEqual({
      type: 'kafka',
      brokers: ['k1:9092', 'k2:9092'],
      format: 'canal-json',
      headers: false,
      topic: 'example',
      partition: 2,
    })
    expect(m.server.values).toMatchObject({ canal: { host: '127.0.0.1' } })
    expect([m.keysOf('lost'), m.keysOf('unneeded')]).toEqual([[], ['kafka.acks']])
  })
  test('Kafka with rules, protobuf, SASL and TLS', () => {
    const m = kafka(
      'canal.mq.flatMessage=false\ncanal.mq.database.hash=false\nkafka.compression.type=LZ4\nkafka.max.request.size=5000000\n' +
        'kafka.security.protocol=SASL_SSL\nkafka.sasl.mechanism=SCRAM-SHA-512\nkafka.ssl.truststore.location=x.jks\n' +
        'kafka.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="u" password="p\\\\"w";',
      'canal.mq.dynamicTopic=t:a\\\\..*,b\ncanal.mq.partitionHash=a.t:id^x,.*\\\\..*:$pk$\ncanal.mq.partitionsNum=3\n' +
        'canal.mq.dynamicTopicPartitionNum=t:4\ncanal.instance.gtidon=true\ncanal.instance.filter.query.ddl=true',
    )
    expect(sink(m)).toEqual({
      type: 'kafka',
      brokers: ['k1:9092', 'k2:9092'],
      format: 'canal-protobuf',
      formatOptions: { gtid: true },
      headers: false,
      topic: 'example',
      dynamicTopic: 't:a\\..*,b',
      partitionHash: 'a.t:id^x,.*\\..*:$pk$',
      partitionsNum: 3,
      databaseHash: false,
      compression: 'lz4',
      messageBytesMax: 5_000_000,
      tls: { enabled: true },
      sasl: { mechanism: 'scram-sha-512', username: 'u', password: 'p"w' },
      statements: false,
    })
    expect(m.keysOf('lost')).toEqual([
      'canal.mq.dynamicTopicPartitionNum',
      'kafka.ssl.truststore.location',
    ])
  })
  test('what is written for Kafka is what the sink reads', () => {
    using c = canal({})
    const m = kafka('', 'canal.mq.partitionHash=.*\\\\..*:$pk$\ncanal.mq.dynamicTopic=.*\\\\..*')
    mkdirSync(c.out)
    const file = join(c.out, 'a.yaml')
    writeFileSync(file, m.drafts[0]!.toString())
    expect(loadInstance(file, {})).toMatchObject({
      problems: [],
      config: { sinks: { kafka: { type: 'kafka', partitionHash: '.*\\..*:$pk$' } } },
    })
  })
  test('Kerberos, RocketMQ, RabbitMQ and Pulsar are said to be missing', () => {
    expect(kafka('kafka.kerberos.enable=true').keysOf('lost')).toContain('kafka.kerberos.enable')
    for (const mode of ['rocketMQ', 'rabbitMQ', 'pulsarMQ']) {
      const m = mapped({
        'canal.properties': `canal.serverMode=${mode}\ncanal.destinations=a\n${mode.toLowerCase()}.x=1`,
        'a/instance.properties': 'canal.instance.master.address=db:1\ncanal.mq.topic=example',
      })
      expect(m.keysOf('lost')).toEqual(
        expect.arrayContaining(['canal.serverMode', `${mode.toLowerCase()}.x`]),
      )
      expect(m.drafts[0]!.values).not.toHaveProperty('sinks')
    }
  })
})

describe('the command', () => {
  const files = {
    'canal.properties': canalProperties,
    'orders/instance.properties': instanceProperties
      .replace('db.example:3307', '127.0.0.1:1')
      .replace(/^canal.instance.master.(journal|pos).*$/gm, ''),
  }
  test('writes files that nobody else may read, and overwrites nothing', async () => {
    using c = canal(files)
    const first = await inProcess(['import-canal', c.conf, '--out', c.out])
    expect([first.code, first.stderr]).toEqual([0, ''])
    expect(first.stdout).toContain('Canal drops rows whose table it cannot describe')
    expect(first.stdout).not.toContain('hunter2')
    const file = join(c.out, 'instances', 'orders.yaml')
    expect(statSync(file).mode & 0o777).toBe(0o600)
    expect(parse(readFileSync(file, 'utf8'))).toMatchObject({ start: 'latest' })
    const second = await inProcess(['import-canal', c.conf, '--out', c.out])
    expect(second.code).toBe(1)
    expect(second.stdout).toContain(`${file} exists already`)
  })
  test('cursors need the source, a dry run does not', async () => {
    const meta = {
      clientDatas: [
        {
          clientIdentity: { clientId: 1001, filter: '' },
          cursor: { postion: { journalName: 'b.1', position: 4 } },
        },
      ],
    }
    using c = canal({ ...files, 'orders/meta.dat': JSON.stringify(meta) })
    const real = await inProcess(['import-canal', c.conf, '--out', c.out, '--json'])
    expect(real.code).toBe(1)
    const outcome = JSON.parse(real.stdout) as { written: boolean; notes: object[] }
    expect(outcome.written).toBe(false)
    expect(outcome.notes).toContainEqual(
      expect.objectContaining({
        kind: 'refused',
        key: 'meta.dat',
        text: expect.stringContaining('CONNECT_FAILED') as string,
        fix: expect.stringContaining('--without-cursors') as string,
      }),
    )
    expect(() => statSync(c.out)).toThrow('ENOENT')
    const dry = await inProcess(['import-canal', c.conf, '--out', c.out, '--dry-run'])
    expect(dry.code).toBe(0)
    expect(dry.stdout).toContain('Not known in a dry run')
    expect(() => statSync(c.out)).toThrow('ENOENT')
    expect(
      (await inProcess(['import-canal', c.conf, '--out', c.out, '--without-cursors'])).code,
    ).toBe(0)
  })
  test('a data folder that is not here, and cursors in ZooKeeper, are not passed over', async () => {
    using c = canal(files)
    const away = await inProcess(['import-canal', c.conf, '--out', c.out], {
      'canal.file.data.dir': '/nowhere',
    })
    expect([away.code, away.stderr]).toEqual([
      2,
      expect.stringContaining('found nothing at /nowhere'),
    ])
    const zookeeper = await inProcess(['import-canal', c.conf, '--out', c.out], {
      'canal.instance.global.spring.xml': 'classpath:spring/default-instance.xml',
    })
    expect(zookeeper.code).toBe(1)
    expect(zookeeper.stdout).toContain('/otter/canal/destinations/orders/<client id>/cursor')
  })
})

test('docs/coming-from-canal.md has every key of the tables', () => {
  const manual = readFileSync(join(import.meta.dirname, '../../docs/coming-from-canal.md'), 'utf8')
  const missing = fateKeys.filter((key) => !manual.includes(`\`${key}\``))
  expect(missing).toEqual([])
})
