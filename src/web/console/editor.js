/**
 * The configuration editor: the text of an instance file with what is wrong with it at its lines, a dry run, and saving without
 * overwriting what somebody else has saved meanwhile. What was typed stays until it is saved or given up, also while other pages are
 * looked at.
 */
import { say, sure } from './act.js'
import { ask, at, redraw, session } from './api.js'
import { facts, h, show, table } from './dom.js'
import { changeRow } from './tail.js'

const TEMPLATE = `# docs/config.md has every key.
source:
  host: 127.0.0.1
  port: 3306
  user: canal
  password: \${MYSQL_PASSWORD}
filter:
  include: shop\\..*
`
/** What is edited: { name, text, saved, tag, problems, dry, theirs, note, turn }; undefined: nothing. */
let open
const $ = (id) => document.getElementById(id)
const key = () => `${open.name}/${open.turn}`
function typed() {
  const area = $('config-text')
  return area?.dataset.key === key() ? area.value : open.text
}
const nameNow = () => (open.name === '' ? ($('config-name')?.value.trim() ?? '') : open.name)
const operator = () => session.me?.role === 'operator'

function begin(name, { yaml, tag, writable, file }) {
  const turn = (open?.turn ?? 0) + 1 // another text area
  const about = { problems: [], dry: undefined, theirs: undefined, note: '' }
  open = { name, text: yaml, saved: yaml, tag, writable, file, turn, ...about }
}
async function load(name) {
  if (name === '') begin('', { yaml: TEMPLATE, writable: true, file: 'a new file' })
  else begin(name, await ask(at('instances', name, 'config')))
}
/** The page of one instance's file; "": of a new one. */
export async function editor(name) {
  if (!operator()) return [h('h1', {}, 'Configuration'), h('p', {}, 'This needs an operator.')]
  if (open?.name !== name) await load(name)
  const title =
    name === ''
      ? ['A new instance']
      : ['Configuration of ', h('a', { href: `#${at('instances', name)}` }, name)]
  return [
    h('h1', {}, title),
    open.writable
      ? h('p', { class: 'soft' }, about(name))
      : h(
          'p',
          { class: 'trouble' },
          `${open.file} is read-only for the server: edit it where it is kept.`,
        ),
    name === '' &&
      h('label', {}, 'Name of the instance', h('input', { id: 'config-name', 'data-own': true })),
    textArea(),
    h(
      'p',
      { class: 'row' },
      deed('check', 'Check'),
      deed('dryrun', 'Dry run on the source'),
      deed('save', 'Save', open.writable),
      deed('reread', 'Read again'),
      name !== '' && deed('remove', 'Remove', open.writable),
    ),
    h('div', { role: 'status' }, open.note && h('p', { class: 'soft' }, open.note)),
    problems(),
    conflict(),
    open.dry && dryRun(open.dry),
  ]
}
const about = (name) =>
  name === ''
    ? 'Its file is made in the instances folder; the instance starts at once.'
    : `${open.file}. Marks like (hidden 5f2c91aa) stand for secrets and may stay; what is saved is followed at once.`
const deed = (name, label, possible = true) =>
  h('button', { type: 'button', 'data-do': `config-${name}`, disabled: !possible }, label)

// ── the text ─────────────────────────────────────────────────────────────────

function textArea() {
  const wrong = open.problems.length > 0
  return h(
    'div',
    { class: 'editor' },
    h('div', { class: 'gutter', id: 'config-gutter', 'aria-hidden': 'true' }, numbers()),
    h(
      'div',
      { class: 'text' },
      h('div', { class: 'behind', id: 'config-behind', 'aria-hidden': 'true' }, behind()),
      h(
        'textarea',
        {
          id: 'config-text',
          'data-own': true,
          'data-key': key(),
          'aria-label': 'text of the file',
          'aria-invalid': wrong ? 'true' : undefined,
          'aria-describedby': 'config-problems',
          autocomplete: 'off',
          autocapitalize: 'off',
          spellcheck: 'false',
          wrap: 'off',
          readonly: !open.writable,
        },
        open.text,
      ),
    ),
  )
}
const linesNow = () => typed().split('\n')
const at_ = (line) => open.problems.filter((p) => Math.max(1, p.line) === line)
const numbers = () =>
  linesNow().map((_, i) => h('div', { class: at_(i + 1).length > 0 ? 'bad' : '' }, i + 1))
/** The same lines behind the text, unseen but for what is wrong with them. */
const behind = () =>
  linesNow().map((line, i) => {
    const found = at_(i + 1)
    const words = found.map((p) => p.message).join('; ')
    return h(
      'div',
      { class: found.length > 0 ? 'wrong' : '' },
      line,
      found.length > 0 ? h('span', { class: 'message' }, `  ← ${words}`) : '',
      '\u200b',
    )
  })
function paint() {
  show($('config-gutter'), numbers())
  show($('config-behind'), behind())
  follow()
}
function follow() {
  const text = $('config-text')
  if (!text) return
  $('config-gutter').scrollTop = text.scrollTop
  $('config-behind').scrollTop = text.scrollTop
  $('config-behind').scrollLeft = text.scrollLeft
}
document.addEventListener('scroll', ({ target }) => target.id === 'config-text' && follow(), true)
document.addEventListener('input', ({ target }) => {
  if (target.id !== 'config-text') return
  open.text = target.value
  paint()
})
addEventListener('beforeunload', (event) => {
  if (open && open.text !== open.saved) event.preventDefault()
})

function problems() {
  const items = open.problems.map((p) =>
    h(
      'li',
      {},
      h(
        'button',
        { type: 'button', 'data-do': 'config-line', 'data-line': p.line },
        `Line ${p.line}`,
      ),
      ' ',
      h('code', {}, p.key),
      ` ${p.message}`,
    ),
  )
  return h(
    'div',
    { id: 'config-problems', role: 'alert' },
    items.length > 0 && h('ul', { class: 'problems trouble' }, items),
  )
}
function goTo(line) {
  const text = $('config-text')
  const before = text.value.split('\n').slice(0, Math.max(0, line - 1))
  const from = before.join('\n').length + (before.length > 0 ? 1 : 0)
  const end = text.value.indexOf('\n', from)
  text.focus()
  text.setSelectionRange(from, end < 0 ? text.value.length : end)
  text.scrollTop = Math.max(0, (line - 3) * 20)
}

// ── dry run, saving, conflicts ───────────────────────────────────────────────

function dryRun({ source, tables, sample }) {
  return [
    h('h2', {}, 'Dry run'),
    facts({
      source: `${source.version}, ${source.server}`,
      'binlog format': `${source.binlogFormat}, metadata ${source.rowMetadata}, GTIDs ${source.gtidMode}`,
      'end of its log': source.end,
      tables: `${tables.wanted} of ${tables.all} are wanted`,
    }),
    h(
      'details',
      { 'data-own': true, 'data-key': tables.names.join('\n') },
      h('summary', {}, 'The wanted tables'),
      h(
        'ul',
        {},
        tables.names.map((name) => h('li', {}, name)),
      ),
    ),
    sample.length === 0
      ? h('p', { class: 'soft' }, 'The newest file of its log has no change of these tables.')
      : table(['time', 'what', 'before and after'], sample.map(changeRow), 'sample of changes'),
  ]
}
function conflict() {
  const { theirs } = open
  if (theirs === undefined) return []
  const lines = theirs === null ? [] : differences(theirs.yaml, typed())
  return h(
    'section',
    { class: 'trouble', role: 'alert' },
    h('h2', {}, 'Somebody else was faster'),
    h(
      'p',
      {},
      theirs === null
        ? 'The file was removed meanwhile. What you have typed is still here.'
        : 'The file was changed since it was read. What you have typed is still here; this is how it differs:',
    ),
    h(
      'pre',
      { class: 'difference' },
      lines.map(([mark, line]) =>
        h(
          'div',
          { class: mark === '+' ? 'good' : mark === '-' ? 'bad' : 'soft' },
          `${mark} ${line}`,
        ),
      ),
    ),
    h(
      'p',
      { class: 'row' },
      deed('theirs', 'Take theirs', theirs !== null),
      deed('mine', 'Go on with mine'),
    ),
  )
}
/** Lines of two texts, those of the first with "-" and of the second with "+", and a few that are in both. */
function differences(first, second) {
  const [a, b] = [first, second].map((text) => text.split('\n').slice(0, 1500))
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1))
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i][j] =
        a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1])
  const all = []
  let [i, j] = [0, 0]
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) all.push([' ', a[i++], j++])
    else if (j >= b.length || (i < a.length && common[i + 1][j] >= common[i][j + 1]))
      all.push(['-', a[i++]])
    else all.push(['+', b[j++]])
  }
  return all.filter(
    ([mark], at) => mark !== ' ' || all.slice(Math.max(0, at - 2), at + 3).some(([m]) => m !== ' '),
  )
}

async function look(connect) {
  const name = nameNow() || 'new'
  open.text = typed()
  const result = await ask('/dry-run', 'POST', { destination: name, yaml: open.text, connect })
  open.problems = result.problems
  open.dry = result.source ? result : undefined
  open.note = result.valid ? 'Nothing is wrong with it.' : ''
}
async function save() {
  const name = nameNow()
  const fresh = open.tag === undefined
  open.text = typed()
  const text = fresh
    ? `${name} is made and starts at once.`
    : `${name} restarts with it, if it differs from what it has.`
  if (!(await sure('Save the file?', text, 'Save'))) return
  const condition = fresh ? { 'if-none-match': '*' } : { 'if-match': `"${open.tag}"` }
  try {
    await ask(at('instances', name, 'config'), 'PUT', { yaml: open.text }, condition)
  } catch (error) {
    if (error.problems) open.problems = error.problems
    if (error.status === 412) open.theirs = await theirsOf(name)
    open.note = ''
    throw error
  }
  say('Saved')
  if (open.name === '') {
    open = undefined
    location.hash = `#${at('instances', name)}`
  } else await load(name)
}
async function theirsOf(name) {
  try {
    return await ask(at('instances', name, 'config'))
  } catch (error) {
    if (error.status === 404) return null
    throw error
  }
}
async function remove() {
  const { name, tag } = open
  const text = `${name} stops and its file is gone. Its positions stay in the data folder.`
  if (!(await sure('Remove the instance?', text, 'Remove'))) return
  try {
    await ask(at('instances', name, 'config'), 'DELETE', undefined, { 'if-match': `"${tag}"` })
  } catch (error) {
    if (error.status === 412) open.theirs = await theirsOf(name)
    throw error
  }
  open = undefined
  say('Removed')
  location.hash = '#/'
}
async function reread() {
  const text = 'What you have typed since is given up.'
  if (open.text !== open.saved && !(await sure('Read the file again?', text, 'Read'))) return
  await load(open.name)
}
const deeds = {
  'config-check': () => look(false),
  'config-dryrun': () => look(true),
  'config-save': save,
  'config-remove': remove,
  'config-reread': reread,
  'config-line': ({ line }) => goTo(Number(line)),
  'config-theirs': () => begin(open.name, open.theirs),
  'config-mine': () => {
    open.tag = open.theirs?.tag // undefined: it is made anew
    open.theirs = undefined
    open.note = 'Save it to put yours in its place.'
  },
}
export async function edit({ dataset }) {
  try {
    await deeds[dataset.do](dataset)
  } catch (error) {
    say(error.message)
  }
  redraw()
}
