/**
 * What an operator may do, each after being asked whether he is sure.
 */
import { ask, at, redraw, session } from './api.js'
import { h, show } from './dom.js'

const $ = (id) => document.getElementById(id)

let quiet
/** Says what became of it, for a while. */
export function say(text) {
  show($('said'), text)
  clearTimeout(quiet)
  quiet = setTimeout(() => show($('said')), 6000)
}
/** Asks whether it is really meant. */
export function sure(title, text, yes) {
  show($('ask-title'), title)
  show($('ask-text'), text)
  show($('ask-yes'), yes)
  const dialog = $('ask')
  dialog.returnValue = 'no'
  dialog.showModal()
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true })
  })
}
const deeds = {
  stop: ({ d }) => [
    'Stop the instance?',
    `${d} will read nothing until it is started again.`,
    'Stop',
    at('instances', d, 'stop'),
  ],
  start: ({ d }) => [
    'Start the instance?',
    `${d} goes on where it was.`,
    'Start',
    at('instances', d, 'start'),
  ],
  restart: ({ d }) => [
    'Restart the instance?',
    `The clients of ${d} are cut off for a moment.`,
    'Restart',
    at('instances', d, 'restart'),
  ],
  pause: ({ d, s }) => [
    'Pause the sink?',
    `${s} of ${d} writes nothing until it is resumed, also after a restart.`,
    'Pause',
    at('instances', d, 'sinks', s, 'pause'),
  ],
  resume: ({ d, s }) => [
    'Resume the sink?',
    `${s} of ${d} goes on where it was.`,
    'Resume',
    at('instances', d, 'sinks', s, 'resume'),
  ],
  rollback: ({ d, c }) => [
    'Roll the client back?',
    `Client ${c} of ${d} gets again what it has not acked.`,
    'Roll back',
    at('instances', d, 'clients', c, 'rollback'),
  ],
  forget: ({ d, c }) => [
    'Forget the client?',
    `Client ${c} of ${d} loses its position and what it has not acked.`,
    'Forget',
    at('instances', d, 'clients', c),
    'DELETE',
  ],
  reload: ({ d, b, t }) => [
    'Reload the definition?',
    `The next row of ${b}.${t} asks the source for its columns; the log is read on by a new connection.`,
    'Reload',
    at('instances', d, 'tables', b, t, 'reload'),
  ],
  replay: ({ d, i }) => [
    'Write the dead letter again?',
    `Number ${i} of ${d} goes to its sink once more, with its old version.`,
    'Replay',
    at('instances', d, 'deadletters', 'replay'),
    'POST',
    { ids: [Number(i)] },
  ],
  drop: ({ d, i }) => [
    'Drop the dead letter?',
    `The row of number ${i} will not be in the target.`,
    'Drop',
    at('instances', d, 'deadletters', 'drop'),
    'POST',
    { ids: [Number(i)] },
  ],
}
export function act(target) {
  const { do: deed, ...about } = target.dataset
  return carryOut(deeds[deed](about))
}
/** The forms of the pages: what their fields say is done, after asking. */
export function submit({ dataset, elements }) {
  const value = (name) => elements[name].value.trim()
  if (dataset.form === 'level') return carryOut(level(value('level')))
  if (dataset.form === 'position')
    return carryOut(position(dataset.d, value('to') || null, value('client') || undefined))
  return Promise.resolve()
}
const level = (name) => [
  'Change the level of the log?',
  `From now on, until the server ends, it logs ${name} and worse.`,
  'Change',
  '/log',
  'PUT',
  { level: name },
]
const position = (d, to, client) => [
  'Set the position?',
  `${client === undefined ? `All clients of ${d}` : `Client ${client} of ${d}`} ${to === null ? 'forget where they are' : `go on at ${to}`}; the instance stops for a moment. What lies between is not delivered, or again.`,
  'Set',
  at('instances', d, 'position'),
  'POST',
  { to, ...(client !== undefined && { client }) },
]
async function carryOut([title, text, yes, path, method = 'POST', body]) {
  if (!(await sure(title, text, yes))) return
  try {
    await ask(path, method, body)
    say(`${yes}: done`)
  } catch (error) {
    say(error.message)
  }
  redraw()
}
export const button = (deed, label, about = {}, words = label) => {
  const data = Object.fromEntries(Object.entries(about).map(([k, v]) => [`data-${k}`, v]))
  return h(
    'button',
    {
      type: 'button',
      'data-do': deed,
      ...data,
      'aria-label': words,
      disabled: session.me?.role !== 'operator',
    },
    label,
  )
}
