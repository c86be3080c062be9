/**
 * The live tail of the instance page: events of the server as rows, the newest first.
 */
import { at, open, redraw } from './api.js'
import { h, when } from './dom.js'

const ROWS_MAX = 200
/** { destination, stop, rows, note }; undefined: there is none. */
export let tail
let drawing

/** Ends the tail, unless it is of this destination. */
export function endTail(but) {
  if (tail?.destination === but) return
  tail?.stop.abort()
  tail = undefined
}

export function changeRow({ time: at_, kind, type, database, table: name, before, after, sql }) {
  const cells =
    sql !== undefined
      ? h('code', {}, sql)
      : Object.keys({ ...before, ...after }).map((column) => {
          const [was, is] = [before?.[column], after?.[column]].map((v) =>
            v === undefined ? undefined : JSON.stringify(v),
          )
          const changed = before && after && was !== is
          return h(
            'div',
            {},
            h(
              'code',
              {},
              `${column}: `,
              changed ? [was ?? '–', ' → ', h('mark', {}, is ?? '–')] : (is ?? was),
            ),
          )
        })
  return h(
    'tr',
    {},
    h('td', {}, when(at_)),
    h('td', {}, `${type ?? kind} ${database}.${name}`),
    h('td', { class: 'long' }, cells),
  )
}
export function toggleTail(destination) {
  const same = tail?.destination === destination
  tail?.stop.abort()
  tail = undefined
  if (!same) {
    tail = { destination, stop: new AbortController(), rows: [], note: 'waiting for changes' }
    void follow(tail)
  }
  redraw()
}
async function follow(mine) {
  try {
    const reader = await open(at('instances', mine.destination, 'tail'), mine.stop.signal)
    const decoder = new TextDecoder()
    let text = ''
    for (;;) {
      const { done, value } = await reader.read()
      if (done) break
      text += decoder.decode(value, { stream: true })
      const events = text.split('\n\n')
      text = events.pop()
      for (const event of events) take(mine, event)
    }
    mine.note = 'the server has ended the tail'
  } catch (error) {
    if (!mine.stop.signal.aborted) mine.note = error.message
  }
}
function take(mine, event) {
  const [, kind, data] = /^event: (\w+)\ndata: (.*)$/.exec(event) ?? []
  if (kind === 'change') mine.rows = [JSON.parse(data), ...mine.rows].slice(0, ROWS_MAX)
  if (kind === 'skipped')
    mine.note = `too fast to show: ${JSON.parse(data).changes} changes were left out`
  if (kind === 'change' && mine.rows.length === 1) mine.note = ''
  drawing ??= setTimeout(() => {
    drawing = undefined
    redraw()
  }, 100)
}
