/** The Kafka sink with TLS and SASL, on a broker of its own: right and wrong passwords, an authority that is not trusted. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { kafka } from '../../src/sinks/kafka.ts'
import { clients, options } from '../../src/sinks/kafka/options.ts'
import type { Sink } from '../../src/sinks/sink.ts'
import { sharedMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { hasService, privateService, type KafkaService } from '../support/services.ts'
import { context, feed } from './logged.ts'

const PASSWORD = 'right-1234'
const dir = mkdtempSync(join(tmpdir(), 'sluice-kafka-tls-'))
const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')]

/** A text as a value of server.properties. */
const property = (text: string): string => text.trim().replaceAll('\n', '\\n')

async function secured(): Promise<KafkaService> {
  const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=x']
  const names = ['-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert]
  execFileSync('openssl', [...request, ...names], { stdio: 'ignore' })
  const users = `user_sluice="${PASSWORD}"`
  const login = 'org.apache.kafka.common.security'
  const listener = 'listener.name.client'
  return privateService('kafka', {
    properties: {
      'listener.security.protocol.map': 'CLIENT:SASL_SSL,DIRECT:PLAINTEXT,CONTROLLER:PLAINTEXT',
      [`${listener}.sasl.enabled.mechanisms`]: 'PLAIN',
      [`${listener}.plain.sasl.jaas.config`]: `${login}.plain.PlainLoginModule required ${users};`,
      [`${listener}.scram-sha-512.sasl.jaas.config`]: `${login}.scram.ScramLoginModule required;`,
      [`${listener}.ssl.keystore.type`]: 'PEM',
      [`${listener}.ssl.keystore.key`]: property(readFileSync(key, 'utf8')),
      [`${listener}.ssl.keystore.certificate.chain`]: property(readFileSync(cert, 'utf8')),
    },
  })
}

describe.skipIf(!hasService('kafka'))('the Kafka sink, with TLS and SASL', () => {
  let mysql: MysqlServer
  let broker: KafkaService
  const database = uniqueDatabase('secure')
  beforeAll(async () => {
    mysql = await sharedMysql('9.7')
    await mysql.query(
      `CREATE DATABASE ${database}; CREATE TABLE ${database}.t (id INT PRIMARY KEY)`,
    )
    broker = await secured()
  })
  afterAll(async () => {
    await broker?.[Symbol.asyncDispose]()
    await mysql.query(`DROP DATABASE ${database}`)
    await mysql[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true, force: true })
  })
  interface Wanted {
    readonly client: (typeof clients)[number]
    readonly password?: string
    readonly ca?: string
  }
  const open = ({ client, password = PASSWORD, ca = cert }: Wanted): Promise<Sink> => {
    const given = {
      brokers: [`${broker.host}:${broker.port}`],
      client,
      topic: `secure-${client}`,
      timeoutMs: 5000,
      sasl: { mechanism: 'plain' as const, username: 'sluice', password },
      tls: { enabled: true, ...(ca !== '' && { ca }) },
    }
    return kafka.open(options.parse(given), context())
  }
  it.each(clients)('%s writes', async (client) => {
    const { batch } = await feed(
      mysql,
      database,
      `INSERT INTO t VALUES (${clients.indexOf(client)})`,
    )
    const sink = await open({ client })
    expect(await sink.write(batch, new AbortController().signal)).toEqual([])
    await sink.close()
  })
  it.each(clients)('%s says that the password is wrong, and not which', async (client) => {
    const error: unknown = await open({ client, password: 'wrong-5678' }).catch((e: unknown) => e)
    expect(error).toMatchObject({ code: 'SINK_UNSUITABLE' })
    expect((error as Error).message).not.toContain('wrong-5678')
  })
  it.each(clients)('%s trusts no unknown authority', async (client) => {
    await expect(open({ client, ca: '' })).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
  })
})
