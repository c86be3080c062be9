/**
 * The pages: each asks the API and answers with what is to be shown.
 */
import { button } from './act.js'
import { ask, at, session } from './api.js'
import { bytes, chart, facts, h, hour, lag, state, table, time, when } from './dom.js'
import { changeRow, tail } from './tail.js'

const SAMPLES_MAX = 900 // half an hour
const rates = new Map() // destination → bytes a second, since the console was opened

function remember(instances) {
  for (const { destination, rates: now } of instances) {
    const kept = rates.get(destination) ?? []
    kept.push(now.bytes)
    if (kept.length > SAMPLES_MAX) kept.shift()
    rates.set(destination, kept)
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

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']
export async function overview() {
  const [instances, server] = await Promise.all([ask('/instances'), ask('/server')])
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
      chart(rates.get(i.destination), `bytes a second of ${i.destination}`),
      i.error && h('p', { class: 'bad' }, i.error.message),
    ),
  )
  return [
    h('h1', {}, 'Instances'),
    troubles(instances.flatMap((i) => i.stages)),
    instances.length === 0 && h('p', {}, 'There is no file in the instances folder.'),
    h('div', { class: 'cards' }, cards),
    h('h2', {}, 'Server'),
    facts({
      version: `${server.version}, Node ${server.node}`,
      'runs since': when(server.startedAt),
      memory: bytes(server.memoryBytes),
      'Canal port': server.canal
        ? `${server.canal.port}, ${server.canal.connections} connections, ${bytes(server.canal.sentBytes)} sent`
        : 'not open',
      'level of the log': server.logLevel,
    }),
    session.me?.role === 'operator' &&
      h(
        'form',
        { 'data-form': 'level', class: 'row' },
        h(
          'label',
          {},
          'Log',
          h(
            'select',
            { name: 'level', 'data-own': true },
            LEVELS.map((name) => h('option', { selected: name === server.logLevel }, name)),
          ),
        ),
        h('button', {}, 'Change the level'),
      ),
  ]
}

export async function instance(destination) {
  const [i, errors, past] = await Promise.all([
    ask(at('instances', destination)),
    ask(`/errors?destination=${encodeURIComponent(destination)}&limit=20`),
    pastOf(destination),
  ])
  const d = destination
  return [
    h('h1', {}, d, ' ', state(i.state)),
    h(
      'p',
      { class: 'row' },
      button('start', 'Start', { d }),
      button('stop', 'Stop', { d }),
      button('restart', 'Restart', { d }),
      h('a', { href: `#${at('instances', d, 'tables')}` }, 'Tables'),
      h('a', { href: `#${at('instances', d, 'deadletters')}` }, 'Dead letters'),
      session.me?.role === 'operator' &&
        h('a', { href: `#${at('instances', d, 'config')}` }, 'Configuration'),
    ),
    i.error && h('p', { class: 'trouble' }, `${i.error.code}: ${i.error.message}`),
    troubles(i.stages),
    h('h2', {}, 'Flow'),
    flow(i),
    h('h2', {}, 'The last hour'),
    charts(past),
    h('h2', {}, 'Position'),
    facts({
      reading: i.position?.text ?? 'none yet',
      'end of the log': endOf(i),
      GTIDs: i.position?.gtids ?? 'none',
      epoch: i.epoch,
    }),
    session.me?.role === 'operator' && positionForm(i),
    upstreamOf(i),
    snapshotsOf(i),
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
/** Asked anew when there can be another point. */
let asked = { destination: '', until: 0, past: undefined }
async function pastOf(destination) {
  if (asked.destination !== destination || Date.now() >= asked.until) {
    const past = await ask(at('instances', destination, 'history'))
    asked = { destination, until: Date.now() + past.stepMs, past }
  }
  return asked.past
}
function charts({ at: times, changes, bytes: read, readMs, ackMs }) {
  const about = { at: times, nowMs: Math.max(Date.now(), times.at(-1) ?? 0) }
  const rate = (n) => `${n}/s`
  return h(
    'div',
    { class: 'cards' },
    hour({ ...about, values: changes, title: 'Changes read', text: rate }),
    hour({ ...about, values: read, title: 'Log read', text: (n) => `${bytes(n)}/s` }),
    hour({ ...about, values: readMs, title: 'Commit to read', text: time }),
    hour({ ...about, values: ackMs, title: 'Read to acked, of the slowest', text: time }),
  )
}
function positionForm(i) {
  const names = i.clients.map((c) => c.client)
  return h(
    'form',
    { 'data-form': 'position', 'data-d': i.destination, class: 'row' },
    h(
      'label',
      {},
      'Of',
      h(
        'select',
        { name: 'client', 'data-own': true, 'data-key': names.join('\n') },
        h('option', { value: '' }, 'all clients and new ones'),
        names.map((name) => h('option', {}, name)),
      ),
    ),
    h(
      'label',
      {},
      'file:offset, GTIDs, or nothing to forget',
      h('input', { name: 'to', 'data-own': true, autocomplete: 'off' }),
    ),
    h('button', {}, 'Set the position'),
  )
}
function upstreamOf({ upstream: u }) {
  const lost = u.lost
    ? `${u.positionsLost}; the last one at ${when(u.lost.time)} by ${u.lost.clients.join(', ')}: ${u.lost.range} (${u.lost.policy}: ${u.lost.to ? `they went on at ${u.lost.to}` : 'nothing was moved'})`
    : u.positionsLost
  return [
    h('h2', {}, 'Source'),
    facts({
      reading: u.reading ?? 'none',
      'fail-overs': `${u.failovers}, ${u.standbys} stand by`,
      'positions lost': u.lost ? h('span', { class: 'bad' }, lost) : lost,
      'what it keeps': u.purge
        ? h('span', { class: u.purge.urgent ? 'bad' : '' }, u.purge.text)
        : 'nothing needed is about to be removed',
      'semi-sync': u.semiSyncAcks === null ? 'off' : `${u.semiSyncAcks} acknowledgements sent`,
    }),
  ]
}
const loadMood = { done: 'running', cancelled: 'failed' }
function rateOf({ rowsPerSecond, pace }) {
  const rate = rowsPerSecond === 'auto' ? pace : rowsPerSecond
  return rate === 0 ? 'none' : `${rate} rows/s`
}
function snapshotsOf({ snapshots }) {
  if (snapshots.length === 0) return []
  const rows = snapshots.map((s) =>
    h(
      'tr',
      { 'data-key': s.client },
      h('td', {}, s.client),
      h('td', {}, state(s.state, loadMood[s.state] ?? s.state)),
      h(
        'td',
        {},
        h('progress', { max: Math.max(1, s.tables), value: s.done, 'aria-label': 'tables done' }),
        ` ${s.done} of ${s.tables} tables`,
      ),
      h('td', {}, s.table ?? ''),
      h('td', {}, s.rows),
      h('td', {}, rateOf(s)),
      h(
        'td',
        { class: 'long' },
        s.skipped.map(({ table: t, why }) => h('div', {}, `${t}: ${why}`)),
      ),
      h('td', {}, when(s.ended ?? s.started)),
    ),
  )
  const head = ['for', 'state', 'done', 'reads', 'rows', 'limit', 'left out', 'began or ended']
  return [h('h2', {}, 'Snapshots'), table(head, rows, 'snapshots')]
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
      h(
        'td',
        {},
        session.me?.role === 'operator'
          ? h('a', { href: `#${at('instances', d, 'deadletters', l.id)}` }, l.id)
          : l.id,
      ),
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
/** One of them, with its contents. */
export async function deadLetter(destination, id) {
  const d = destination
  const l = await ask(at('instances', d, 'deadletters', id))
  return [
    h('h1', {}, `Dead letter ${l.id} of `, h('a', { href: `#${at('instances', d)}` }, d)),
    h('p', { class: 'trouble' }, `${l.code}: ${l.error}`),
    h(
      'p',
      { class: 'row' },
      button('replay', 'Replay', { d, i: l.id }, `Replay dead letter ${l.id}`),
      button('drop', 'Drop', { d, i: l.id }, `Drop dead letter ${l.id}`),
      h('a', { href: `#${at('instances', d, 'deadletters')}` }, 'All of them'),
    ),
    facts({
      sink: l.sink,
      row: `${l.op} ${l.table}`,
      key: l.key,
      position: l.position,
      version: l.version,
      time: when(l.time),
      attempts: l.attempts,
    }),
    table(
      ['time', 'what', 'before and after'],
      [
        changeRow({
          time: l.time,
          type: l.op,
          database: l.table.split('.')[0],
          table: l.table.split('.').slice(1).join('.'),
          before: Object.keys(l.before).length > 0 ? l.before : undefined,
          after: Object.keys(l.after).length > 0 ? l.after : undefined,
        }),
      ],
      'the row',
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
