/**
 * The table browser: which tables are known, and every definition of one through the log, with what each of them changed.
 */
import { button } from './act.js'
import { ask, at } from './api.js'
import { h, state, table } from './dom.js'

const PAGE = 200
let shown = { destination: '', after: '', words: '' }

/** Shows the next tables, those of another name, or the first ones again. */
export function browse(change) {
  shown = { ...shown, ...change }
}
const nameOf = (t) => `${t.database}.${t.table}`
const mood = { known: 'running', unknown: 'retrying', gone: 'stopped' }

export async function tables(destination) {
  if (shown.destination !== destination) shown = { destination, after: '', words: '' }
  const d = destination
  const query = new URLSearchParams({ after: shown.after, limit: PAGE })
  if (shown.words !== '') query.set('search', shown.words)
  const list = await ask(`${at('instances', d, 'tables')}?${query}`)
  const rows = list.map((t) =>
    h(
      'tr',
      { 'data-key': nameOf(t) },
      h(
        'td',
        {},
        h('a', { href: `#${at('instances', d, 'tables', t.database, t.table)}` }, nameOf(t)),
      ),
      h('td', {}, state(t.state, mood[t.state])),
      h('td', {}, t.columns),
      h('td', {}, t.keys.join(', ') || 'none'),
      h('td', {}, t.origin ?? ''),
      h('td', {}, t.from ?? ''),
      h('td', {}, t.versions),
    ),
  )
  return [
    h('h1', {}, 'Tables of ', h('a', { href: `#${at('instances', d)}` }, d)),
    h(
      'form',
      { 'data-form': 'tables', class: 'row', role: 'search' },
      h(
        'label',
        {},
        'Names with',
        h('input', { name: 'words', 'data-own': true, autocomplete: 'off' }),
      ),
      h('button', {}, 'Find'),
    ),
    rows.length === 0
      ? h('p', { class: 'soft' }, 'none')
      : table(['table', 'state', 'columns', 'key', 'origin', 'since', 'versions'], rows, 'tables'),
    h(
      'p',
      { class: 'row' },
      shown.after !== '' && page('First ones', ''),
      list.length === PAGE && page('More', nameOf(list.at(-1))),
    ),
  ]
}
const page = (label, after) =>
  h('button', { type: 'button', 'data-do': 'tables', 'data-after': after }, label)

export async function oneTable(destination, database, name) {
  const d = destination
  const versions = await ask(at('instances', d, 'tables', database, name))
  const last = versions.at(-1)
  return [
    h('h1', {}, `${database}.${name} `, state(last.state, mood[last.state])),
    h('p', {}, h('a', { href: `#${at('instances', d, 'tables')}` }, `All tables of ${d}`)),
    h(
      'p',
      { class: 'row' },
      button('reload', 'Reload the definition', { d, b: database, t: name }),
    ),
    h('h2', {}, 'Columns'),
    last.columns.length === 0
      ? h('p', { class: 'soft' }, words[last.state])
      : table(['column', 'type', 'null', 'key'], last.columns.map(columnRow), 'columns'),
    h('h2', {}, 'Definitions through the log, the newest first'),
    table(
      ['from', 'origin', 'state', 'what changed'],
      versions
        .map((v, i) =>
          h(
            'tr',
            {},
            h('td', {}, v.from, v.epoch > 1 ? ` (epoch ${v.epoch})` : ''),
            h('td', {}, v.origin),
            h('td', {}, state(v.state, mood[v.state])),
            h('td', { class: 'long' }, difference(versions[i - 1], v)),
          ),
        )
        .reverse(),
      'definitions',
    ),
  ]
}
const words = {
  known: 'It has no columns.',
  unknown: 'Its next row asks the source for its columns.',
  gone: 'It was dropped.',
}
const columnRow = (c) =>
  h(
    'tr',
    {},
    h('td', {}, c.name),
    h('td', { class: 'long' }, h('code', {}, c.type)),
    h('td', {}, c.nullable ? 'yes' : 'no'),
    h('td', {}, c.key ? 'yes' : ''),
  )
const describe = (c) => `${c.type}${c.nullable ? '' : ' not null'}${c.key ? ' key' : ''}`
/** What a definition changed of the one before, a line each. */
function difference(before, now) {
  if (now.state !== 'known') return words[now.state]
  if (before?.state !== 'known')
    return `${before ? 'known again' : 'first known'}, ${now.columns.length} columns`
  const line = (tone, text) => h('div', {}, h('code', { class: tone }, text))
  const was = new Map(before.columns.map((c) => [c.name, c]))
  const is = new Map(now.columns.map((c) => [c.name, c]))
  const stayed = before.columns.filter((c) => is.has(c.name)).map((c) => c.name)
  const order = now.columns.filter((c) => was.has(c.name)).map((c) => c.name)
  const lines = [
    ...before.columns
      .filter((c) => !is.has(c.name))
      .map((c) => line('bad', `− ${c.name} ${describe(c)}`)),
    ...now.columns.flatMap((c, i) => {
      const old = was.get(c.name)
      const place = i === 0 ? 'first' : `after ${now.columns[i - 1].name}`
      if (!old) return [line('good', `+ ${c.name} ${describe(c)}, ${place}`)]
      return describe(old) === describe(c)
        ? []
        : [line('warn', `~ ${c.name}: ${describe(old)} → ${describe(c)}`)]
    }),
  ]
  if (stayed.join('\n') !== order.join('\n')) lines.push(line('warn', '~ the order of columns'))
  return lines.length > 0 ? lines : 'the same columns'
}
