/**
 * The console: pages by the address behind '#', drawn anew from the API every two seconds. The token stays in this tab. Acts only through
 * the API, after asking.
 */
import { act, submit } from './act.js'
import { ask, authorization, session } from './api.js'
import { h, show } from './dom.js'
import { edit, editor } from './editor.js'
import { audit, deadLetter, deadLetters, instance, overview } from './pages.js'
import { browse, oneTable, tables } from './tables.js'
import { endTail, toggleTail } from './tail.js'

const POLL_MS = 2000
const $ = (id) => document.getElementById(id)

function login(problem) {
  const field = (name, label, type, hint) =>
    h('label', {}, label, h('input', { name, type, autocomplete: hint, 'data-own': true }))
  return [
    h('h1', {}, 'Sluice'),
    h(
      'p',
      {},
      'A token (without accounts: the one in admin.token of the data folder), or a name and a password.',
    ),
    problem && h('p', { class: 'trouble', role: 'alert' }, problem),
    h(
      'form',
      { id: 'login', class: 'card' },
      field('token', 'Token', 'password', 'off'),
      field('user', 'or name', 'text', 'username'),
      field('password', 'and password', 'password', 'current-password'),
      h('button', { class: 'strong' }, 'Enter'),
    ),
  ]
}
async function enter(form) {
  const [token, user, password] = ['token', 'user', 'password'].map(
    (name) => form.elements[name].value,
  )
  const utf8 = String.fromCharCode(...new TextEncoder().encode(`${user}:${password}`))
  sessionStorage.setItem('authorization', token ? `Bearer ${token}` : `Basic ${btoa(utf8)}`)
  form.reset()
  await draw()
  $('main').focus()
}
function leave() {
  endTail()
  session.me = undefined
  sessionStorage.clear()
  return draw()
}
const nameIn = (hash) => decodeURIComponent(hash.split('/')[2] ?? '')
function page(hash) {
  const [first, name, what, ...rest] = hash.replace(/^#\/?/, '').split('/').map(decodeURIComponent)
  if (first === 'audit') return audit
  if (first === 'new') return () => editor('')
  if (first !== 'instances' || !name) return overview
  if (what === 'config') return () => editor(name)
  if (what === 'tables')
    return rest.length === 2 ? () => oneTable(name, ...rest) : () => tables(name)
  if (what === 'deadletters')
    return rest.length === 1 ? () => deadLetter(name, rest[0]) : () => deadLetters(name)
  return () => instance(name)
}
async function drawHead() {
  if (!session.me) return show($('head'), h('strong', {}, 'Sluice'))
  const { healthy, version } = await ask('/server')
  const here = location.hash || '#/'
  const link = (href, text) =>
    h('a', { href, 'aria-current': here === href ? 'page' : undefined }, text)
  show(
    $('head'),
    h('strong', {}, 'Sluice'),
    h(
      'nav',
      { 'aria-label': 'pages' },
      link('#/', 'Instances'),
      session.me.role === 'operator' && link('#/new', 'New instance'),
      session.me.role === 'operator' && link('#/audit', 'Audit log'),
    ),
    h(
      'span',
      { class: healthy ? 'good' : 'bad' },
      healthy ? 'all stages move' : 'something stands still',
    ),
    h('span', { class: 'soft' }, `${session.me.name} (${session.me.role}), ${version}`),
    h('button', { type: 'button', 'data-do': 'leave' }, 'Leave'),
  )
}

let drawing = Promise.resolve()
const draw = () => (drawing = drawing.then(drawNow))
async function drawNow() {
  const { hash } = location
  try {
    if (authorization() === '') {
      await drawHead()
      if (!$('login')) show($('main'), login())
      return
    }
    session.me ??= await ask('/me')
    await drawHead()
    const parts = await page(hash)()
    if (hash === location.hash) show($('main'), parts)
  } catch (error) {
    if (error.status === 401 || error.status === 429) {
      session.me = undefined
      sessionStorage.clear()
      await drawHead()
      show($('main'), login(error.message))
    } else
      show(
        $('main'),
        h('h1', {}, 'It does not work'),
        h('p', { class: 'trouble', role: 'alert' }, error.message),
      )
  }
}
document.addEventListener('click', (event) => {
  const target = event.target.closest('[data-do]')
  if (!target) return
  if (target.dataset.do === 'leave') void leave()
  else if (target.dataset.do === 'tail') toggleTail(target.dataset.d)
  else if (target.dataset.do === 'tables') {
    browse({ after: target.dataset.after })
    void draw()
  } else if (target.dataset.do.startsWith('config-')) void edit(target)
  else void act(target)
})
document.addEventListener('submit', (event) => {
  const form = event.target
  if (form.method === 'dialog') return
  event.preventDefault()
  if (form.id === 'login') void enter(form)
  else if (form.dataset.form === 'tables') {
    browse({ words: form.elements.words.value.trim(), after: '' })
    void draw()
  } else void submit(form)
})
addEventListener('hashchange', () => {
  endTail(nameIn(location.hash))
  void draw().then(() => $('main').focus())
})
document.addEventListener('redraw', () => void draw())
setInterval(() => {
  if (!document.hidden && authorization() !== '') void draw()
}, POLL_MS)
void draw()
