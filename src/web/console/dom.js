/**
 * Making and updating the page. Everything that is shown goes in as text, never as HTML. What is drawn anew is laid over what is there, so that
 * focus and scrolling stay. Actions are names in data-do, for one listener.
 */
const SVG = 'http://www.w3.org/2000/svg'

/** An element: attributes, then children (texts or elements; false, null and undefined are left out). */
export function h(tag, attributes = {}, ...children) {
  const element = ['svg', 'polyline', 'title'].includes(tag)
    ? document.createElementNS(SVG, tag)
    : document.createElement(tag)
  for (const [name, value] of Object.entries(attributes))
    if (value !== undefined && value !== false)
      element.setAttribute(name, value === true ? '' : String(value))
  for (const child of children.flat(3))
    if (child !== undefined && child !== null && child !== false)
      element.append(child instanceof Node ? child : String(child))
  return element
}

/** Makes the children of `place` like `wanted`, changing as little as possible. */
export function show(place, ...wanted) {
  const next = document.createElement('div')
  next.append(
    ...wanted.flat(3).filter((child) => child !== undefined && child !== null && child !== false),
  )
  patchChildren(place, next)
}
function patchChildren(old, next) {
  const now = [...old.childNodes]
  const then = [...next.childNodes]
  for (const [i, node] of then.entries()) {
    if (now[i] === undefined) old.append(node)
    else if (!patch(now[i], node)) now[i].replaceWith(node)
  }
  for (const node of now.slice(then.length)) node.remove()
}
function patch(old, next) {
  if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName) return false
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data
    return true
  }
  if (old.getAttribute('data-key') !== next.getAttribute('data-key')) return false
  for (const name of old.getAttributeNames())
    if (!next.hasAttribute(name)) old.removeAttribute(name)
  for (const { name, value } of next.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value)
  if (!old.hasAttribute('data-own')) patchChildren(old, next)
  return true
}

/** A small line of numbers over time. */
export function chart(numbers, title) {
  const most = Math.max(1e-9, ...numbers)
  const step = 100 / Math.max(1, numbers.length - 1)
  const points = numbers.map(
    (n, i) => `${(i * step).toFixed(2)},${(38 - (36 * n) / most).toFixed(2)}`,
  )
  const picture = {
    class: 'chart',
    viewBox: '0 0 100 40',
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-label': title,
  }
  return h('svg', picture, h('title', {}, title), h('polyline', { points: points.join(' ') }))
}

/** The last hour of one number, with its gaps; `text` says a number in words. */
export function hour({ at, values, title, text, nowMs }) {
  const known = values.filter((n) => n !== null)
  const most = Math.max(1e-9, ...known)
  const lines = [[]]
  for (const [i, value] of values.entries()) {
    const x = 100 - ((nowMs - at[i]) / 3_600_000) * 100
    if (value === null) lines.push([])
    else if (x >= 0) lines.at(-1).push(`${x.toFixed(2)},${(58 - (56 * value) / most).toFixed(2)}`)
  }
  const picture = {
    class: 'chart hour',
    viewBox: '0 0 100 60',
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-label': `${title}, the last hour`,
  }
  const last = known.at(-1)
  return h(
    'div',
    { class: 'card' },
    h('div', {}, `${title}: `, h('strong', {}, last === undefined ? 'not known yet' : text(last))),
    h(
      'svg',
      picture,
      h('title', {}, title),
      lines
        .filter((points) => points.length > 1)
        .map((points) => h('polyline', { points: points.join(' ') })),
    ),
    h(
      'div',
      { class: 'row soft ends' },
      h('span', {}, '−60 min'),
      h('span', {}, known.length > 0 ? `most ${text(Math.max(...known))}` : ''),
      h('span', {}, 'now'),
    ),
  )
}

export const table = (head, rows, caption) =>
  h(
    'div',
    { class: 'scroll' },
    h(
      'table',
      { 'aria-label': caption },
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          head.map((text) => h('th', { scope: 'col' }, text)),
        ),
      ),
      h('tbody', {}, rows),
    ),
  )
export const facts = (pairs) =>
  h(
    'dl',
    {},
    Object.entries(pairs).map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]),
  )

export function bytes(n) {
  if (n === null || n === undefined) return '?'
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let at = 0
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024
    at++
  }
  return `${at === 0 ? n : n.toFixed(1)} ${units[at]}`
}
export function time(ms) {
  if (ms === null || ms === undefined) return '?'
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`
  return `${Math.round(ms / 3_600_000)} h`
}
export const lag = ({ ms, bytes: n }) => `${time(ms)}, ${bytes(n)}`
export const when = (iso) => (iso ? iso.replace('T', ' ').replace(/\.\d+Z$/, 'Z') : '')
const tones = {
  running: 'good',
  live: 'good',
  failed: 'bad',
  invalid: 'bad',
  retrying: 'warn',
  connecting: 'warn',
  paused: 'warn',
  held: 'warn',
  catchUp: 'warn',
}
/** A state in its colour; `like`: in that of another one. */
export const state = (name, like = name) =>
  h('span', { class: `state ${tones[like] ?? 'soft'}` }, name)
