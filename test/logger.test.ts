/** The server's log: its level changes for every child at once, the last warnings are remembered, secrets are in neither. */
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'

/** A process of its own, for the log writes to a file descriptor. */
function logged(body: string): {
  lines: Record<string, unknown>[]
  noted: Record<string, string>[]
} {
  const script = `
    import { LogBook } from './src/logger.ts'
    const book = new LogBook('info', 1)
    const child = book.log.child({ instance: 'orders' }).child({ sink: 'cache' })
    ${body}
    console.error(JSON.stringify(book.noted))`
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module-typescript', '-e', script],
    { encoding: 'utf8' },
  )
  return {
    lines: stdout
      .split('\n')
      .filter(Boolean)
      .map((l) => JSON.parse(l) as Record<string, unknown>),
    noted: JSON.parse(stderr) as Record<string, string>[],
  }
}

test('the level changes for every child at once', () => {
  const { lines } = logged(`
    child.debug('no')
    book.setLevel('debug')
    child.debug('yes')
    book.log.child({}).debug('new children too')
    book.setLevel('error')
    child.warn('no')
    child.error('at last')`)
  expect(lines.map((l) => l['msg'])).toEqual(['yes', 'new children too', 'at last'])
})
test('warnings and errors are remembered with where they happened, and without passwords', () => {
  const { lines, noted } = logged(`
    child.info({ code: 'X' }, 'not remembered')
    child.warn({ code: 'SINK_DATA', position: 'binlog.1:4', password: 'hunter2' }, 'at redis://u:hunter2@host')
    book.log.error('just words')
    for (let i = 0; i < 300; i++) child.warn({}, 'n' + i)`)
  expect(noted).toHaveLength(200)
  expect(noted.at(-1)).toMatchObject({
    instance: 'orders',
    sink: 'cache',
    message: 'n299',
    code: '',
  })
  expect(lines[1]).toMatchObject({ password: '[secret]', level: 'warn' })
  const first = logged(`
    child.warn({ code: 'SINK_DATA', position: 'binlog.1:4', password: 'hunter2' }, 'at redis://u:hunter2@host')
    book.log.error('just words')`).noted
  expect(first).toMatchObject([
    {
      level: 'warn',
      instance: 'orders',
      sink: 'cache',
      code: 'SINK_DATA',
      position: 'binlog.1:4',
      message: 'at redis://u:***@host',
    },
    { level: 'error', instance: '', message: 'just words' },
  ])
  expect(JSON.stringify(first)).not.toContain('hunter2')
})
