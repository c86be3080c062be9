/** What instances share: the memory of their windows. On a real MySQL, in this process. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { stringify } from 'yaml'
import { Fleet } from '../src/fleet.ts'
import { createLogger } from '../src/logger.ts'
import { sharedMysql } from './support/mysql.ts'

const MIB = 1024 * 1024

test('windows shrink in proportion when there are more of them, grow back, and one that has no room does not start', async () => {
  const { host, port, user, password } = await sharedMysql('9.7')
  const dir = mkdtempSync(join(tmpdir(), 'sluice-fleet-'))
  const folder = join(dir, 'instances')
  mkdirSync(folder)
  const file = (name: string): string => join(folder, `${name}.yaml`)
  const write = (name: string, keys: object): void =>
    writeFileSync(file(name), stringify({ source: { host, port, user, password }, ...keys }))
  const fleet = new Fleet({
    folder,
    dataDir: join(dir, 'data'),
    log: createLogger('silent', 2),
    memoryBytesMax: 12 * MIB,
  })
  const windows = async (names: string): Promise<Record<string, number | undefined>> => {
    await expect
      .poll(() =>
        fleet
          .statuses()
          .map(({ name, state }) => `${name} ${state}`)
          .join(),
      )
      .toBe(names.replace(/\w+/g, '$& running'))
    return Object.fromEntries(fleet.statuses().map(({ name, store }) => [name, store!.windowBytes]))
  }
  try {
    write('a', {})
    await fleet.open()
    expect(await windows('a')).toEqual({ a: 8 * MIB })
    write('b', { windowBytes: '12MiB' })
    await fleet.scan()
    // 2 MiB each, and of the other 8 MiB 6 and 10 parts
    expect(await windows('a,b')).toEqual({ a: 5 * MIB, b: 7 * MIB })
    write('c', { partBytes: '5MiB', windowBytes: '10MiB' })
    await fleet.scan()
    expect(fleet.find('c')).toMatch(
      /memoryBytesMax: expected room for 3 instances, which need 14680064 bytes at least .*, found 12582912/,
    )
    expect(await windows('a,b')).toEqual({ a: 5 * MIB, b: 7 * MIB })
    rmSync(file('b'))
    await fleet.scan()
    expect(await windows('a')).toEqual({ a: 8 * MIB })
  } finally {
    await fleet.close()
    rmSync(dir, { recursive: true, force: true })
  }
})
