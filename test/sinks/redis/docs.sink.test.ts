/** The manual of the Redis sink says what is there, and its guide runs: line by line, on real servers, without Docker. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { entrySchema } from '../../../src/sinks/runner/options.ts'
import { redis } from '../../../src/sinks/redis.ts'
import { GTID_APPLIED } from '../../../src/sinks/redis/applied.ts'
import { redisOptions } from '../../../src/sinks/redis/options.ts'
import { privateMysql } from '../../support/mysql.ts'
import { privateService } from '../../support/services.ts'
import { startSluice } from '../../support/sluice.ts'

const read = (name: string): Promise<string> =>
  readFile(join(import.meta.dirname, '../../../docs', name), 'utf8')
interface Block {
  readonly language: string
  readonly body: string
}
const blocks = (text: string): Block[] =>
  [...text.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language, body]) => ({
    language: language!,
    body: body!,
  }))

describe('the manual', () => {
  it('has every option', async () => {
    const text = await read('sinks/redis.md')
    const named = [...text.matchAll(/^\| ((?:`\w+`(?:, )?)+) \|/gm)].flatMap(([, cell]) =>
      cell!.match(/\w+/g)!,
    )
    const rule = redisOptions.shape.rules.element
    const keys = [...Object.keys(redisOptions.shape), ...Object.keys(rule.shape)]
    expect(keys.filter((key) => !named.includes(key))).toEqual([])
  })
  it('has an example that is valid, and the script as it is', async () => {
    const all = blocks(await read('sinks/redis.md'))
    const { sinks } = parse(all.find(({ language }) => language === 'yaml')!.body) as {
      sinks: Record<string, unknown>
    }
    expect(entrySchema(redis).safeParse(sinks['cache']).error).toBeUndefined()
    expect(all.find(({ language }) => language === 'lua')!.body.trim()).toBe(GTID_APPLIED.trim())
  })
})

describe('the guide', () => {
  it('runs', async () => {
    await using mysql = await privateMysql('9.7')
    await using server = await privateService('redis')
    const client = new Redis({ host: server.host, port: server.port })
    const dir = await mkdtemp(join(tmpdir(), 'sluice-guide-'))
    const { host, port, user, password } = mysql
    let sluice: Awaited<ReturnType<typeof startSluice>> | undefined
    let last = async (): Promise<unknown> => undefined
    let compared = 0
    const line = async (text: string): Promise<void> => {
      const sql = /^docker exec guide-mysql mysql \S+ \S+ -e "(.+)"$/.exec(text)?.[1]
      const command = /^docker exec guide-redis redis-cli (.+)$/.exec(text)?.[1]
      if (sql !== undefined) await mysql.query(sql)
      else if (command !== undefined) {
        const [name, ...args] = command.split(' ')
        last = () => client.call(name!, ...args)
        await last()
      } else if (text !== 'npm start') expect(text).toMatch(/^docker (run|rm) /)
    }
    const steps: Record<string, (body: string) => Promise<void>> = {
      bash: async (body) => {
        for (const text of body.trim().split('\n')) await line(text)
      },
      yaml: async (body) => {
        const instance = parse(body) as { sinks: { cache: object } }
        const cache = { ...instance.sinks.cache, host: server.host, port: server.port }
        const shop = { ...instance, source: { host, port, user, password }, sinks: { cache } }
        sluice = await startSluice({ dir, instances: { shop } })
        await sluice.logged('sink')
      },
      text: async (body) => {
        const shown = async (): Promise<string> => [await last()].flat().join('\n')
        const deadline = Date.now() + 30_000
        while ((await shown()) !== body.trim() && Date.now() < deadline) await delay(20)
        expect(await shown()).toBe(body.trim())
        compared++
      },
    }
    for (const { language, body } of blocks(await read('guides/cache-in-step.md')))
      await steps[language]!(body)
    expect(compared).toBe(5)
    await sluice?.stop()
    client.disconnect()
    await rm(dir, { recursive: true })
  })
})
