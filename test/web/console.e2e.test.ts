/**
 * The console in a real Chromium, on a real server with a real MySQL: instances, dead letters, the audit log, every action there is on them, hostile contents, the
 * keyboard, two sizes, dark. With SLUICE_SCREENSHOTS=FOLDER it leaves a picture of every page there.
 */
import { afterAll, beforeAll, beforeEach, expect, onTestFailed, test } from 'vitest'
import { sharedMysql, versions, type MysqlServer } from '../support/mysql.ts'
import { Browser } from '../support/services/chromium.ts'
import { ConsolePage } from './page.ts'
import { AdminRig, OPERATOR, READER } from './rig.ts'

const HOSTILE = '"><img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'
let mysql: MysqlServer
let rig: AdminRig
let browser: Browser
let page: ConsolePage
beforeAll(async () => {
  mysql = await sharedMysql(versions[0]!)
  rig = await AdminRig.start(mysql, {
    instance: {
      sinks: {
        lines: {
          type: 'file',
          path: `/tmp/sluice-console-${process.pid}/lines`,
          lineBytesMax: '1KiB',
          onError: 'deadLetter',
        },
      },
    },
  })
  browser = await Browser.start()
  page = new ConsolePage(browser, rig.port)
  await browser.size(1100, 800)
}, 600_000)
// What was seen last says more than a time limit.
beforeEach(() => onTestFailed(async () => console.log(await page.text())))
afterAll(async () => {
  await browser?.[Symbol.asyncDispose]()
  await rig[Symbol.asyncDispose]()
})

const text = () => page.text()
const shows = (words: string) => page.shows(words)
const click = (name: string) => page.click(name)
const go = (hash: string) => page.go(hash)
const confirm = () => page.confirm()
const picture = (name: string) => page.picture(name)
const enter = (token: string) => page.enter(token)

test('lets nobody in with a wrong token, and says so; with a right one it shows the instances', async () => {
  await page.open()
  await enter('a wrong token, long enough')
  await shows('NOT_AUTHORIZED')
  await picture('login')
  await enter(OPERATOR)
  await shows('throughput')
  await shows('all stages move')
  expect(await text()).toContain(`${mysql.host}:${mysql.port}`)
  await picture('overview')
})

test('an instance, reached by the keyboard alone, with its flow, positions, clients and sinks', async () => {
  const client = await rig.client()
  await rig.insert(1)
  await (await rig.until(async () => (await client.get({ waitMs: 1000 })) ?? false)).ack()
  for (
    let i = 0;
    i < 12 && !(await browser.run<string>('document.activeElement.hash ?? ""')).endsWith('/orders');
    i++
  )
    await browser.press('Tab')
  await browser.press('Enter')
  await shows('Live tail')
  await shows('1001')
  const shown = await text()
  for (const words of [
    'Flow',
    'The last hour',
    'Commit to read',
    'Position',
    'fail-overs',
    'positions lost',
    'what it keeps',
    'semi-sync',
    'Clients',
    'Sinks',
    'lines',
    'Warnings and errors',
    (await rig.instance()).position!.file,
  ])
    expect(shown).toContain(words)
  await picture('instance')
})

test('hostile contents are text: in the live tail, in dead letters, in names', async () => {
  await click('Start the tail')
  await shows('Stop the tail')
  const table = `\`<b onclick=hurt()>\``
  await mysql.query(
    `CREATE TABLE ${rig.database}.${table} (\`<i>c\` VARCHAR(2000), id INT PRIMARY KEY)`,
  )
  await mysql.query(`INSERT INTO ${rig.database}.${table} VALUES (?, 1)`, [HOSTILE])
  await mysql.query(`UPDATE ${rig.database}.items SET v = ? WHERE id = 1`, [HOSTILE])
  await shows('window.hurt=1')
  await browser.until("document.querySelectorAll('mark').length > 0")
  expect(
    await browser.run("document.querySelectorAll('main img, main script, main b, main i').length"),
  ).toBe(0)
  expect(await browser.run('window.hurt ?? null')).toBe(null)
  await picture('tail')
  await click('Stop the tail')
  await rig.insert(2, HOSTILE.repeat(20).slice(0, 1500)) // too long a line for the sink
  await rig.when((v) => v.sinks[0]!.deadLetters === 1)
  await go('#/instances/orders/deadletters')
  await shows('SINK_DATA')
  await picture('deadletters')
  await click('1')
  await shows('before and after')
  await shows('window.hurt=1')
  await picture('deadletter')
  const attempts = () =>
    rig.api<{ attempts: number }[]>('/instances/orders/deadletters').then(([l]) => l!.attempts)
  const before = await attempts()
  await click('Replay dead letter 1')
  await confirm()
  await rig.until(async () => (await attempts()) > before) // still too long
  await click('All of them')
  await shows('SINK_DATA')
  expect(await browser.run('window.hurt ?? null')).toBe(null)
  await click('Drop dead letter 1')
  await confirm()
  await browser.until("document.querySelector('main').innerText.includes('none')")
  expect((await rig.instance()).sinks[0]!.deadLetters).toBe(0)
})

test('acts after asking, and not when the answer is no', async () => {
  await go('#/instances/orders')
  await shows('Live tail')
  await click('Pause sink lines')
  await browser.until("document.getElementById('ask').open")
  await browser.press('Escape')
  await browser.until("!document.getElementById('ask').open")
  expect((await rig.instance()).sinks[0]!.state).toBe('running')
  await click('Pause sink lines')
  await confirm()
  await shows('paused')
  await click('Resume sink lines')
  await confirm()
  await rig.when((v) => v.sinks[0]!.state === 'running')
  await click('Stop')
  await confirm()
  await shows('it was stopped by an operator')
  await click('Start')
  await confirm()
  await rig.when((v) => v.state === 'running')
  await click('Restart')
  await confirm()
  await shows('Restart: done')
  await rig.when((v) => v.state === 'running')
  await go('#/')
  await browser.until("document.querySelector('select[name=level]')")
  await browser.run("document.querySelector('select[name=level]').value = 'warn'")
  await click('Change the level')
  await confirm()
  await rig.until(async () => (await rig.api<{ logLevel: string }>('/server')).logLevel === 'warn')
  await go('#/instances/orders')
  await shows('Live tail')
  const { file } = (await rig.instance()).position!
  await rig.when((v) => v.clients.some((c) => c.client === '1001'))
  await browser.until("document.querySelector('select[name=client] option:nth-child(2)')")
  await browser.run("document.querySelector('select[name=client]').value = '1001'")
  await page.fill('input[name=to]', `${file}:4`)
  await click('Set the position')
  await confirm()
  await rig.when((v) => v.clients.some((c) => c.client === '1001' && c.acked.text === `${file}:4`))
  const client = await rig.client()
  await rig.until(async () => (await client.get({ waitMs: 1000 })) ?? false)
  const rollbacks = async () =>
    (await rig.instance()).clients.find((c) => c.client === '1001')?.totals.rollbacks ?? 0
  const had = await rollbacks()
  await click('Roll back client 1001')
  await confirm()
  await rig.until(async () => (await rollbacks()) > had)
  await client.close()
  await click('Forget client 1001')
  await confirm()
  await rig.when((v) => !v.clients.some((c) => c.client === '1001'))
  await go('#/audit')
  await shows('POST /instances/orders/stop')
  await picture('audit')
  await go('#/instances/none')
  await shows('there is no instance none')
})

test('a reader sees and cannot act', async () => {
  await click('Leave')
  await enter(READER)
  await shows('grafana (readOnly)')
  await go('#/instances/orders')
  await shows('Live tail')
  expect(
    await browser.run("[...document.querySelectorAll('main button')].every((b) => b.disabled)"),
  ).toBe(true)
  expect(await text()).not.toContain('Audit log')
})

test('fits on a phone, has a dark side, asks nobody else, and breaks no policy of its own', async () => {
  for (const [name, width, dark] of [
    ['phone', 375, true],
    ['desk', 1280, false],
  ] as const) {
    await browser.size(width, 800)
    await browser.dark(dark)
    for (const hash of ['#/', '#/instances/orders']) {
      await go(hash)
      await shows(hash === '#/' ? 'throughput' : 'Live tail')
      expect(await browser.run('document.documentElement.scrollWidth <= innerWidth')).toBe(true)
      await picture(`${name}${hash === '#/' ? '' : '-instance'}`)
    }
    const back = await browser.run<string>('getComputedStyle(document.body).backgroundColor')
    expect(back).toBe(dark ? 'rgb(18, 22, 28)' : 'rgb(246, 247, 249)')
  }
  const own = new RegExp(`^(http://127\\.0\\.0\\.1:${rig.port}/|about:|data:)`)
  expect(browser.requests.filter((url) => !own.test(url))).toEqual([])
  expect(browser.requests.length).toBeGreaterThan(20)
  expect(browser.complaints).toEqual([])
})
