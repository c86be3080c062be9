/**
 * Redis 7 for tests, from Debian's packages: one server, a cluster of three, or a primary with a replica and a sentinel.
 * Everything that was written survives `kill`: it is in the append-only file before the client hears of it.
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { certificate } from './certificate.ts'
import { cached, debianLoader, needDebian, unpackDebian } from './fetch.ts'
import { freePort } from './process.ts'
import { startLocal, type Definition, type Service } from './service.ts'

export interface RedisOptions {
  /** More settings as redis.conf has them, e.g. `{ maxmemory: '4mb', appendonly: 'no' }`; they win. */
  readonly settings?: Readonly<Record<string, string>>
  /** Only TLS, with a certificate for 127.0.0.1 that `ca` of the service vouches for. */
  readonly tls?: boolean
  /** Only this account, with the rules of an ACL: `+@all ~*` by default. */
  readonly user?: { readonly name: string; readonly password: string; readonly rules?: string }
}

export const redis: Definition<RedisOptions> = {
  name: 'redis',
  scheme: 'redis',
  defaultPort: 6379,
  fetch: async () => `Debian packages in ${await folder()}`,
  start: (options = {}) => startOne('redis', options),
}

async function folder(): Promise<string> {
  const wanted = (name: string): boolean => /^(redis-server|redis-tools|lib.*)$/.test(name)
  return cached('redis-7.0', 'fetching Redis (Debian packages, about 10 MB)', async (to) => {
    needDebian('Redis')
    await unpackDebian('bookworm', ['redis-server'], to, wanted)
  })
}

async function startOne(
  name: string,
  options: RedisOptions,
  more: (port: number) => Promise<Record<string, string>> = () => Promise.resolve({}),
): Promise<Service> {
  const home = await folder()
  return startLocal(name, async ({ dir, port }) => {
    const { settings = {}, tls = false, user } = options
    const own = tls ? await certificate(dir) : undefined
    const all: Record<string, string> = {
      bind: '127.0.0.1',
      port: tls ? '0' : `${port}`,
      dir,
      save: '""',
      appendonly: 'yes',
      // a killed process (not machine) loses nothing
      appendfsync: 'no',
      daemonize: 'no',
      ...(own && {
        'tls-port': `${port}`,
        'tls-auth-clients': 'no',
        'tls-cert-file': own.certificate,
        'tls-key-file': own.key,
        'tls-ca-cert-file': own.ca,
      }),
      ...(await more(port)),
      ...settings,
    }
    const lines = Object.entries(all).map(([key, value]) => `${key} ${value}`)
    if (user) lines.push(`user ${user.name} on >${user.password} ${user.rules ?? '~* &* +@all'}`)
    if (user) lines.push('user default off')
    const config = join(dir, 'redis.conf')
    await writeFile(config, `${lines.join('\n')}\n`)
    const account = user ? `${user.name}:${user.password}@` : ''
    const mode = 'sentinel monitor' in all ? ['--sentinel'] : []
    return {
      from: `Redis of ${home}`,
      command: [...debianLoader(home), join(home, 'usr/bin/redis-server'), config, ...mode],
      ready: /Ready to accept connections|Sentinel ID is/,
      url: `${tls ? 'rediss' : 'redis'}://${account}127.0.0.1:${port}`,
      ca: own?.ca,
    }
  })
}

export interface RedisCluster extends AsyncDisposable {
  /** Three primaries, each with a third of the slots. */
  readonly nodes: readonly Service[]
}

/** A cluster of three primaries without replicas; a slot is down while its node is. */
export async function redisCluster(
  options: Pick<RedisOptions, 'settings'> = {},
): Promise<RedisCluster> {
  await using stack = new AsyncDisposableStack()
  const settings = async (): Promise<Record<string, string>> => ({
    'cluster-enabled': 'yes',
    'cluster-port': `${await freePort()}`,
    'cluster-node-timeout': '2000',
    // a cluster that lost a node still serves what the others have
    'cluster-require-full-coverage': 'no',
  })
  const nodes: Service[] = []
  for (let i = 0; i < 3; i++)
    nodes.push(stack.use(await startOne(`redis-cluster-${i}`, options, settings)))
  const clients = await Promise.all(nodes.map((node) => adminOf(node, stack)))
  const [first] = clients
  const bounds = [0, 5461, 10923, 16384]
  for (const [i, client] of clients.entries())
    await client.call('CLUSTER', 'ADDSLOTSRANGE', bounds[i]!, bounds[i + 1]! - 1)
  for (const [i, node] of nodes.entries()) {
    if (i === 0) continue
    const bus = await clients[i]!.config('GET', 'cluster-port')
    await first!.call('CLUSTER', 'MEET', node.host, node.port, (bus as string[])[1]!)
  }
  const whole = async (client: Redis): Promise<boolean> => {
    const info = await client.cluster('INFO')
    return /cluster_state:ok/.test(info) && /known_nodes:3/.test(info)
  }
  for (const client of clients) await until('the cluster is complete', () => whole(client))
  for (const client of clients) client.disconnect()
  const owned = stack.move()
  return {
    nodes: nodes.map((node) => ({
      ...node,
      async start() {
        await node.start()
        await using connection = new AsyncDisposableStack()
        const client = await adminOf(node, connection)
        await until('the node is back in the cluster', () => whole(client))
      },
    })),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

export interface RedisSentinel extends AsyncDisposable {
  /** Under which the sentinel knows the primary. */
  readonly name: string
  readonly primary: Service
  readonly replica: Service
  readonly sentinel: Service
}

/** A primary, its replica, and a sentinel that promotes the replica a second after the primary is gone. */
export async function redisSentinel(): Promise<RedisSentinel> {
  await using stack = new AsyncDisposableStack()
  const name = 'sluice'
  const primary = stack.use(await startOne('redis-primary', {}))
  const replica = stack.use(
    await startOne('redis-replica', { settings: { replicaof: `127.0.0.1 ${primary.port}` } }),
  )
  const admin = await adminOf(replica, stack)
  await until('the replica follows', async () =>
    /master_link_status:up/.test(await admin.info('replication')),
  )
  admin.disconnect()
  const watched = `${name} 127.0.0.1 ${primary.port} 1`
  const sentinel = stack.use(
    await startOne('redis-sentinel', {
      settings: {
        'sentinel monitor': watched,
        'sentinel down-after-milliseconds': `${name} 1000`,
        'sentinel failover-timeout': `${name} 5000`,
      },
    }),
  )
  const asked = await adminOf(sentinel, stack)
  await until('the sentinel knows the replica', async () => {
    const replicas = (await asked.call('SENTINEL', 'REPLICAS', name)) as unknown[]
    return replicas.length === 1
  })
  asked.disconnect()
  const owned = stack.move()
  return { name, primary, replica, sentinel, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

async function adminOf({ host, port }: Service, stack: AsyncDisposableStack): Promise<Redis> {
  const client = new Redis({ host, port, lazyConnect: true })
  stack.defer(async () => client.disconnect())
  await client.connect()
  return client
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 30_000
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`in 30 s it did not happen that ${what}`)
    await sleep(20)
  }
}
