/**
 * The Kafka sink with TLS and SASL, on a broker of its own: every mechanism, right and wrong passwords, an authority that is not
 * trusted.
 */
import { execFileSync } from 'node:child_process'
import { pbkdf2Sync, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { alterUserScramCredentialsV0, Connection } from '@platformatic/kafka'
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
      [`${listener}.sasl.enabled.mechanisms`]: 'PLAIN,SCRAM-SHA-256,SCRAM-SHA-512',
      [`${listener}.plain.sasl.jaas.config`]: `${login}.plain.PlainLoginModule required ${users};`,
      [`${listener}.scram-sha-256.sasl.jaas.config`]: `${login}.scram.ScramLoginModule required;`,
      [`${listener}.scram-sha-512.sasl.jaas.config`]: `${login}.scram.ScramLoginModule required;`,
      [`${listener}.ssl.keystore.type`]: 'PEM',
      [`${listener}.ssl.keystore.key`]: property(readFileSync(key, 'utf8')),
      [`${listener}.ssl.keystore.certificate.chain`]: property(readFileSync(cert, 'utf8')),
    },
  })
}

const mechanisms = ['plain', 'scram-sha-256', 'scram-sha-512'] as const
const ways = clients.flatMap((client) => mechanisms.map((mechanism) => ({ client, mechanism })))

/** The broker keeps what a password comes to, for each mechanism; PLAIN has it in the properties. */
async function addAccount(direct: string): Promise<void> {
  const iterations = 4096
  const connection = new Connection('sluice-test')
  const [host, port] = direct.split(':')
  await connection.connect(host!, Number(port))
  const digests = [
    { mechanism: 1, hash: 'sha256', length: 32 },
    { mechanism: 2, hash: 'sha512', length: 64 },
  ]
  for (const { mechanism, hash, length } of digests) {
    const salt = randomBytes(16)
    const saltedPassword = pbkdf2Sync(PASSWORD, salt, iterations, length, hash)
    const account = { name: 'sluice', mechanism, iterations, salt, saltedPassword }
    await alterUserScramCredentialsV0.api.async(connection, [], [account])
  }
  await connection.close()
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
    await addAccount(broker.direct)
  })
  afterAll(async () => {
    await broker?.[Symbol.asyncDispose]()
    await mysql.query(`DROP DATABASE ${database}`)
    await mysql[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true, force: true })
  })
  interface Wanted {
    readonly client: (typeof clients)[number]
    readonly mechanism?: (typeof mechanisms)[number]
    readonly password?: string
    readonly ca?: string
  }
  const open = ({
    client,
    mechanism = 'plain',
    password = PASSWORD,
    ca = cert,
  }: Wanted): Promise<Sink> => {
    const given = {
      brokers: [`${broker.host}:${broker.port}`],
      client,
      topic: `secure-${client}`,
      timeoutMs: 5000,
      sasl: { mechanism, username: 'sluice', password },
      tls: { enabled: true, ...(ca !== '' && { ca }) },
    }
    return kafka.open(options.parse(given), context())
  }
  it.each(ways)('$client writes with $mechanism', async (way) => {
    const { batch } = await feed(mysql, database, `INSERT INTO t VALUES (${ways.indexOf(way)})`)
    const sink = await open(way)
    expect(await sink.write(batch, new AbortController().signal)).toEqual([])
    await sink.close()
  })
  it.each(ways)(
    '$client says that the password is wrong with $mechanism, and not which',
    async (way) => {
      const error: unknown = await open({ ...way, password: 'wrong-5678' }).catch((e: unknown) => e)
      expect(error).toMatchObject({ code: 'SINK_UNSUITABLE' })
      expect((error as Error).message).not.toContain('wrong-5678')
    },
  )
  it.each(clients)('%s trusts no unknown authority', async (client) => {
    await expect(open({ client, ca: '' })).rejects.toMatchObject({ code: 'SINK_UNAVAILABLE' })
  })
})
