/**
 * The console's editor and its table browser in a real Chromium, on a real server with a real MySQL: problems at their lines, dry
 * run, saving, conflicts, new and removed instances, definitions through the log; a phone, no foreign requests, a server that is gone.
 */
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, onTestFailed, test } from 'vitest'
import { sharedMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Browser } from '../support/services/chromium.ts'
import { ConsolePage } from './page.ts'
import { AdminRig, OPERATOR, READER } from './rig.ts'

const HOSTILE = '<img src=x onerror=window.hurt=1>'
const SECRET = 'password-of-a-sink-in-this-test'
let mysql: MysqlServer
let rig: AdminRig
let browser: Browser
let page: ConsolePage
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  const folder = `/tmp/sluice-console-pages-${process.pid}`
  mkdirSync(folder, { recursive: true })
  rig = await AdminRig.start(mysql, {
    instance: {
      sinks: {
        lines: { type: 'file', path: `${folder}/lines`, initialLoad: 'always' },
        hook: { type: 'http', url: 'http://127.0.0.1:9/', bearerToken: SECRET, enabled: false },
      },
    },
  })
  browser = await Browser.start()
  page = new ConsolePage(browser, rig.port)
  await browser.size(1100, 800)
  await page.open()
  await page.enter(OPERATOR)
  await page.shows('throughput')
}, 600_000)
// What was seen last says more than a time limit.
beforeEach(() => onTestFailed(async () => console.log(await page.text())))
afterAll(async () => {
  await browser?.[Symbol.asyncDispose]()
  await rig[Symbol.asyncDispose]()
})

const path = (name: string): string => join(rig.dir, 'instances', `${name}.yaml`)
const file = (name: string): string => readFileSync(path(name), 'utf8')
const typed = () => browser.run<string>("document.getElementById('config-text').value")
const field = '#config-text'
async function editor(name: string): Promise<string> {
  await page.go(`#/instances/${name}/config`)
  await page.shows(`Configuration of ${name}`)
  await browser.until("document.getElementById('config-text')?.value")
  return await typed()
}

test('the editor hides secrets, shows what is wrong at its line, and saves what is right', async () => {
  const text = await editor('orders')
  expect(text).toMatch(/bearerToken: \(hidden [0-9a-f]{8}\)/)
  expect(await page.text()).not.toContain(SECRET)
  await page.picture('editor')
  await page.fill(field, `gtid: perhaps\n${text}nonsense: ${HOSTILE}\n`)
  await page.click('Check')
  await page.shows('unknown key')
  const wrong = await browser.run<string[]>(
    "[...document.querySelectorAll('#config-behind .wrong')].map((l) => l.innerText)",
  )
  expect(wrong).toEqual([
    expect.stringMatching(/^gtid: perhaps.*← expected/s),
    expect.stringMatching(/^nonsense: .*unknown key/s),
  ])
  const last = `gtid: perhaps\n${text}`.split('\n').length
  expect(await browser.run("document.querySelector('#config-text').ariaInvalid")).toBe('true')
  await page.picture('editor-problems')
  await page.click(`Line ${last}`)
  expect(
    await browser.run(
      '(([t]) => t.value.slice(t.selectionStart, t.selectionEnd))([document.activeElement])',
    ),
  ).toBe(`nonsense: ${HOSTILE}`)
  await page.click('Save') // it says the same, and writes nothing
  await page.confirm()
  await page.shows('CONFIG_INVALID')
  expect(file('orders')).not.toContain('nonsense')
  await page.fill(field, `gtid: true\n${text}`)
  await page.click('Dry run on the source')
  await page.shows('Nothing is wrong with it.')
  await page.shows('1 of')
  await page.click('The wanted tables')
  await page.shows(`${rig.database}.items`)
  await page.picture('editor-dry-run')
  const { since } = await rig.instance()
  await page.click('Save')
  await page.confirm()
  await page.shows('Saved')
  expect(file('orders')).toMatch(/^gtid: true\n/)
  expect(file('orders')).toContain(SECRET)
  await rig.when((v) => v.state === 'running' && v.since !== since)
  expect(await browser.run('window.hurt ?? null')).toBe(null)
})

test('what somebody else has saved meanwhile is shown, and overwritten only on purpose', async () => {
  const text = await editor('orders')
  await page.fill(field, `# mine\n${text}`)
  writeFileSync(path('orders'), `# theirs\n${file('orders')}`)
  await page.click('Save')
  await page.confirm()
  await page.shows('Somebody else was faster')
  await page.shows('- # theirs')
  await page.shows('+ # mine')
  await page.picture('editor-conflict')
  expect(file('orders')).toMatch(/^# theirs\n/)
  // Other pages may be looked at meanwhile.
  await page.go('#/')
  await page.shows('throughput')
  expect(await editor('orders')).toMatch(/^# mine\n/)
  await page.click('Go on with mine')
  await page.shows('Save it to put yours in its place.')
  await page.click('Save')
  await page.confirm()
  await page.shows('Saved')
  expect(file('orders')).toMatch(/^# mine\n/)
  expect(file('orders')).toContain(SECRET)
  await browser.until("!document.body.innerText.includes('Somebody else')")
  await page.fill(field, 'given up: true\n')
  await page.click('Read again')
  await page.confirm()
  await browser.until("document.getElementById('config-text').value.startsWith('# mine')")
})

test('an instance is made and removed; a name that is none, and a file that is kept elsewhere', async () => {
  await page.go('#/new')
  await page.shows('A new instance')
  await page.fill('#config-name', '../up')
  await page.fill(field, `enabled: false\nsource: {host: 127.0.0.1, password: ${SECRET}}\n`)
  await page.click('Save')
  await page.confirm()
  await page.shows('expected the name of an instance')
  await page.fill('#config-name', 'second')
  await page.picture('editor-new')
  await page.click('Save')
  await page.confirm()
  await browser.until("location.hash === '#/instances/second'")
  await page.shows('disabled')
  expect(file('second')).toContain(SECRET)
  await editor('second')
  await page.click('Remove')
  await page.confirm()
  await page.shows('Removed')
  await browser.until("location.hash === '#/'")
  await browser.until("!document.querySelector('main').innerText.includes('second')")
  writeFileSync(join(rig.dir, 'kept.yaml'), 'enabled: false\n')
  symlinkSync(join(rig.dir, 'kept.yaml'), path('linked'))
  await rig.until(async () => (await rig.ask('/api/v1/instances/linked')).status === 200)
  await editor('linked')
  await page.shows('is read-only for the server')
  expect(await browser.run("document.querySelector('[data-do=config-save]').disabled")).toBe(true)
  renameSync(path('linked'), join(rig.dir, 'gone'))
})

test('tables, with every definition through the log and what it changed', async () => {
  const q = (sql: string) => mysql.query(sql)
  // A cursor that stays behind: definitions are kept as long as somebody may read with them.
  await rig.act('POST', '/instances/orders/sinks/lines/pause')
  await rig.when((v) => v.sinks.some((s) => s.state === 'paused'))
  await q(`ALTER TABLE ${rig.database}.items ADD COLUMN w INT AFTER id, MODIFY v VARCHAR(900)`)
  await q(`ALTER TABLE ${rig.database}.items DROP COLUMN w, ADD COLUMN \`${HOSTILE}\` INT NOT NULL`)
  await q(`CREATE TABLE ${rig.database}.\`${HOSTILE}\` (id INT PRIMARY KEY, \`<b>\` INT)`)
  const known = () => rig.api<{ state: string }[]>(`/instances/orders/tables/${rig.database}/items`)
  await rig.until(async () => (await known()).length === 3)
  await page.go('#/instances/orders/tables')
  await page.shows(`${rig.database}.items`)
  await page.shows(HOSTILE)
  await page.picture('tables')
  await page.fill('input[name=words]', `${rig.database}.items`.toUpperCase()) // others share the server
  await page.click('Find')
  await browser.until("document.querySelectorAll('tbody tr').length === 1")
  await page.click(`${rig.database}.items`)
  for (const words of [
    '+ w int, after id',
    '~ v: varchar(2000) → varchar(900)',
    '− w int',
    `+ ${HOSTILE} int not null, after v`,
    'first known, 2 columns',
  ])
    await page.shows(words)
  await page.picture('table')
  expect(await browser.run("document.querySelectorAll('main img, main b').length")).toBe(0)
  await page.click('Reload the definition')
  await page.confirm()
  await page.shows('Reload: done')
  await rig.when((v) => v.state === 'running')
  await q(`INSERT INTO ${rig.database}.items VALUES (1, 'x', 2)`)
  await rig.until(async () => (await known()).some((v) => v.state === 'unknown'))
  await page.go('#/instances/orders/tables/none/none')
  await page.shows('nothing is known of a table none.none')
  expect(await browser.run('window.hurt ?? null')).toBe(null)
})

test('fits on a phone, light and dark; every control of the editor is reached by the keyboard', async () => {
  for (const [name, width, dark] of [
    ['phone', 375, true],
    ['desk', 1280, false],
  ] as const) {
    await browser.size(width, 800)
    await browser.dark(dark)
    for (const [what, words] of [
      ['config', 'Dry run on the source'],
      ['tables', 'Names with'],
      [`tables/${rig.database}/items`, 'Definitions through the log'],
    ] as const) {
      await page.go(`#/instances/orders/${what}`)
      await page.shows(words)
      expect([
        what,
        await browser.run('document.documentElement.scrollWidth <= innerWidth'),
      ]).toEqual([what, true])
      if (what === 'config') await page.picture(`${name}-editor`)
    }
  }
  await editor('orders')
  const reached = new Set<string>()
  await browser.run("document.querySelector('header a').focus()")
  for (let i = 0; i < 14; i++) {
    await browser.press('Tab')
    reached.add(await browser.run('document.activeElement.id || document.activeElement.innerText'))
  }
  for (const control of [
    'config-text',
    'Check',
    'Dry run on the source',
    'Save',
    'Read again',
    'Remove',
  ])
    expect(reached).toContain(control)
})

test('an instance shows its snapshots, its source and the last hour', async () => {
  await rig.when((v) => v.snapshots.some((s) => s.state === 'done'))
  await page.go('#/instances/orders')
  for (const words of ['Snapshots', 'sink:lines', 'Source', 'fail-overs', 'The last hour'])
    await page.shows(words)
  await browser.until("document.querySelectorAll('svg.hour').length === 4")
  // The first line is there after two steps of ten seconds.
  await browser.until("document.querySelectorAll('svg.hour polyline').length > 0")
  await page.picture('instance-hour')
})

test('a reader sees tables, but neither files nor anything to act with', async () => {
  await page.click('Leave')
  await page.enter(READER)
  await page.shows('grafana (readOnly)')
  await page.go('#/instances/orders/config')
  await page.shows('This needs an operator.')
  expect(await browser.run("document.querySelectorAll('textarea').length")).toBe(0)
  await page.go(`#/instances/orders/tables/${rig.database}/items`)
  await page.shows('Definitions through the log')
  expect(await browser.run("document.querySelector('[data-do=reload]').disabled")).toBe(true)
  await page.go('#/instances/orders')
  await page.shows('Live tail')
  expect(await browser.run("document.querySelectorAll('main form').length")).toBe(0)
})

test('asks nobody else, breaks no policy of its own, and says so when the server is gone', async () => {
  const own = new RegExp(`^(http://127\\.0\\.0\\.1:${rig.port}/|about:|data:)`)
  expect(browser.requests.filter((url) => !own.test(url))).toEqual([])
  expect(browser.complaints).toEqual([])
  await rig.sluice.stop()
  await page.shows('It does not work')
  await page.picture('gone')
})
