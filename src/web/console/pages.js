/**
 * The pages: each asks the API and answers with what is to be shown.
 */
import { button } from './act.js'
import { ask, at } from './api.js'
import { bytes, chart, facts, h, lag, state, table, time, when } from './dom.js'
import { changeRow, tail } from './tail.js'

const SAMPLES_MAX = 900 // half an hour
const history = new Map() // destination → { rate: number[], lag: number[] }

function remember(instances) {
  for (const { destination, rates, lag: lags } of instances) {
    const kept = history.get(destination) ?? { rate: [], lag: [] }
    kept.rate.push(rates.bytes)
    kept.lag.push(lags.read.ms ?? 0)
    for (const list of Object.values(kept)) if (list.length > SAMPLES_MAX) list.shift()
    history.set(destination, kept)
  }
}
const troubles = (stages) =>
  stages
    .filter((s) => !s.ok)
    .map((s) =>
      h(
        'p',
        { class: 'trouble' },
        h('strong', {}, `${s.destination}: ${s.stage} ${s.name} `),
        `${s.reason} (for ${time(s.idleMs)})`,
      ),
    )

export async function overview() {
  const instances = await ask('/instances')
  remember(instances)
  const cards = instances.map((i) =>
    h(
      'section',
      { class: 'card', 'data-key': i.destination },
      h('h2', {}, h('a', { href: `#${at('instances', i.destination)}` }, i.destination)),
      state(i.state),
      facts({
        source: i.source?.address ?? 'none',
        position: i.position?.text ?? 'none yet',
        'behind the source': lag(i.lag.read),
        throughput: `${i.rates.transactions.toFixed(0)} transactions/s, ${bytes(Math.round(i.rates.bytes))}/s`,
        clients: i.clients.filter((c) => c.kind === 'client').length,
        sinks: i.sinks.length,
      }),
      chart(history.get(i.destination).rate, `bytes a second of ${i.destination}`),
      i.error && h('p', { class: 'bad' }, i.error.message),
    ),
  )
  return [
    h('h1', {}, 'Instances'),
    troubles(instances.flatMap((i) => i.stages)),
    instances.length === 0 && h('p', {}, 'There is no file in the instances folder.'),
    h('div', { class: 'cards' }, cards),
  ]
}

export async function instance(destination) {
  const [i, errors] = await Promise.all([
    ask(at('instances', destination)),
    ask(`/errors?destination=${encodeURIComponent(destination)}&limit=20`),
  ])
  remember([i])
  const d = destination
  const kept = history.get(d)
  return [
    h('h1', {}, d, ' ', state(i.state)),
    h(
      'p',
      { class: 'row' },
      button('start', 'Start', { d }),
      button('stop', 'Stop', { d }),
      button('restart', 'Restart', { d }),
    ),
    i.error && h('p', { class: 'trouble' }, `${i.error.code}: ${i.error.message}`),
    troubles(i.stages),
    h('h2', {}, 'Flow'),
    flow(i),
    h('h2', {}, 'Since this page was opened'),
    h(
      'div',
      { class: 'cards' },
      h(
        'div',
        { class: 'card' },
        `Read: ${bytes(Math.round(i.rates.bytes))}/s`,
        chart(kept.rate, 'bytes of log a second'),
      ),
      h(
        'div',
        { class: 'card' },
        `Behind the source: ${time(i.lag.read.ms)}`,
        chart(kept.lag, 'milliseconds from commit to read'),
      ),
    ),
    h('h2', {}, 'Position'),
    facts({
      reading: i.position?.text ?? 'none yet',
      'end of the log': endOf(i),
      GTIDs: i.position?.gtids ?? 'none',
      epoch: i.epoch,
    }),
    clientsOf(i),
    sinksOf(i),
    h('h2', {}, 'Live tail'),
    h(
      'p',
      { class: 'row' },
      button('tail', tail?.destination === d ? 'Stop the tail' : 'Start the tail', { d }),
      h('span', { class: 'soft' }, tail?.note ?? ''),
    ),
    table(['time', 'what', 'before and after'], (tail?.rows ?? []).map(changeRow), 'live changes'),
    h('h2', {}, 'Warnings and errors'),
    errors.length === 0
      ? h('p', { class: 'soft' }, 'none')
      : table(
          ['time', 'level', 'code', 'position', 'message'],
          errors.map((e) =>
            h(
              'tr',
              {},
              h('td', {}, when(e.time)),
              h('td', { class: e.level === 'warn' ? 'warn' : 'bad' }, e.level),
              h('td', {}, e.code),
              h('td', {}, e.position),
              h('td', { class: 'long' }, e.message),
            ),
          ),
          'warnings and errors',
        ),
  ]
}
/** As last asked; what was read since is known to be there too. */
function endOf({ sourceEnd, position, lag: { read } }) {
  if (!sourceEnd) return 'not known'
  return read.bytes === 0 ? position.text : `${sourceEnd.file}:${sourceEnd.offset}`
}
function flow(i) {
  const box = (title, ...lines) =>
    h(
      'div',
      { class: 'card' },
      h('strong', {}, title),
      lines.map((line) => h('div', {}, line)),
    )
  const edge = (text) => h('div', { class: 'edge' }, '→', h('br'), text)
  const fill = i.store ? `${bytes(i.store.bytes)} of ${bytes(i.store.limitBytes)}` : 'not open'
  return h(
    'div',
    { class: 'flow' },
    box('Source', i.source?.address ?? 'none', `TLS ${i.source?.tls ?? ''}`),
    edge(lag(i.lag.read)),
    box('Store', fill, i.store?.full ? h('span', { class: 'bad' }, 'full') : ''),
    h(
      'div',
      {},
      i.clients.map((c) =>
        h(
          'div',
          { class: 'flow' },
          edge(lag(c.lag.deliver)),
          box(c.client, state(c.state), `not acked: ${lag(c.lag.ack)}`),
        ),
      ),
    ),
  )
}
function clientsOf(i) {
  const d = i.destination
  const rows = i.clients
    .filter((c) => c.kind === 'client')
    .map((c) =>
      h(
        'tr',
        { 'data-key': c.client },
        h('td', {}, c.client),
        h('td', {}, state(c.state)),
        h('td', {}, c.acked.text),
        h('td', {}, c.outstandingBatches),
        h('td', {}, lag(c.lag.deliver)),
        h('td', {}, lag(c.lag.ack)),
        h('td', {}, c.totals.ackedChanges),
        h(
          'td',
          {},
          h(
            'span',
            { class: 'row' },
            button('rollback', 'Roll back', { d, c: c.client }, `Roll back client ${c.client}`),
            button('forget', 'Forget', { d, c: c.client }, `Forget client ${c.client}`),
          ),
        ),
      ),
    )
  const head = [
    'client',
    'state',
    'acked',
    'batches out',
    'to deliver',
    'to ack',
    'changes acked',
    '',
  ]
  return [
    h('h2', {}, 'Clients'),
    rows.length === 0 ? h('p', { class: 'soft' }, 'none yet') : table(head, rows, 'clients'),
  ]
}
function sinksOf(i) {
  const d = i.destination
  const rows = i.sinks.map((s) =>
    h(
      'tr',
      { 'data-key': s.name },
      h('td', {}, s.name),
      h('td', {}, s.type),
      h('td', {}, state(s.state), s.error && h('div', { class: 'bad' }, s.error.message)),
      h('td', {}, s.acked?.text ?? 'none yet'),
      h('td', {}, lag(s.lag)),
      h('td', {}, s.totals.rows),
      h('td', {}, h('a', { href: `#${at('instances', d, 'deadletters')}` }, `${s.deadLetters}`)),
      h(
        'td',
        {},
        h(
          'span',
          { class: 'row' },
          button('pause', 'Pause', { d, s: s.name }, `Pause sink ${s.name}`),
          button('resume', 'Resume', { d, s: s.name }, `Resume sink ${s.name}`),
        ),
      ),
    ),
  )
  const head = ['sink', 'type', 'state', 'done up to', 'lag', 'rows', 'dead letters', '']
  return [
    h('h2', {}, 'Sinks'),
    rows.length === 0 ? h('p', { class: 'soft' }, 'none') : table(head, rows, 'sinks'),
  ]
}

export async function deadLetters(destination) {
  const d = destination
  const letters = await ask(`${at('instances', d, 'deadletters')}?limit=200`)
  const rows = letters.map((l) =>
    h(
      'tr',
      { 'data-key': l.id },
      h('td', {}, l.id),
      h('td', {}, when(l.time)),
      h('td', {}, l.sink),
      h('td', {}, `${l.op} ${l.table}`),
      h('td', {}, l.position),
      h('td', { class: 'long' }, `${l.code}: ${l.error}`),
      h('td', {}, l.attempts),
      h(
        'td',
        {},
        h(
          'span',
          { class: 'row' },
          button('replay', 'Replay', { d, i: l.id }, `Replay dead letter ${l.id}`),
          button('drop', 'Drop', { d, i: l.id }, `Drop dead letter ${l.id}`),
        ),
      ),
    ),
  )
  return [
    h('h1', {}, 'Dead letters of ', h('a', { href: `#${at('instances', d)}` }, d)),
    rows.length === 0
      ? h('p', { class: 'soft' }, 'none')
      : table(
          ['number', 'time', 'sink', 'row', 'position', 'why', 'attempts', ''],
          rows,
          'dead letters',
        ),
  ]
}
export async function audit() {
  const lines = await ask('/audit?limit=200')
  const rows = lines.map((l) =>
    h(
      'tr',
      {},
      h('td', {}, when(l.time)),
      h('td', {}, l.account || 'nobody'),
      h('td', {}, l.address),
      h('td', { class: l.phase === 'refused' || l.phase === 'failed' ? 'bad' : '' }, l.phase),
      h('td', { class: 'long' }, h('code', {}, l.action)),
      h('td', { class: 'long' }, l.details),
    ),
  )
  return [
    h('h1', {}, 'Audit log'),
    table(['time', 'who', 'from', 'phase', 'action', 'details'], rows, 'audit log'),
  ]
}
