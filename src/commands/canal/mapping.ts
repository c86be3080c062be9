/**
 * Canal's configuration as ours: canal.properties → conf/server.yaml, a destination's keys → instances/<name>.yaml. What
 * stands in the files afterwards is noted as carried; what could not be carried, with the reason. Pure.
 */
import { Draft } from './draft.ts'
import type { Destination, Installation } from './installation.ts'
import { kafkaSink } from './kafka.ts'
import { fateOf } from './keys.ts'
import type { Found, Keys } from './properties.ts'

export interface MappingOptions {
  /** Passwords as references to the environment. */
  readonly envSecrets: boolean
}

const HEAD = [
  ' Made by `sluice import-canal`: behind each value stands the key of Canal it came from, with file and line.',
  ' A key that does not stand here has its default; docs/config.md of Sluice explains all of them.',
]

/** tcp, kafka, rocketmq, rabbitmq, pulsarmq. */
export const modeOf = (keys: Keys): string => (keys.text('canal.serverMode') ?? 'tcp').toLowerCase()
/** How Canal kept the cursors of a destination. */
export function cursorsIn(keys: Keys, name: string): 'file' | 'zookeeper' | 'memory' | 'group' {
  const xml =
    keys.text(`canal.instance.${name}.spring.xml`, 'canal.instance.global.spring.xml') ?? ''
  if (/group-instance/.test(xml)) return 'group'
  if (/memory-instance/.test(xml)) return 'memory'
  return /default-instance/.test(xml) ? 'zookeeper' : 'file'
}

// ── conf/server.yaml ─────────────────────────────────────────────────────────

export function mapServer({ keys, missing }: Installation, options: MappingOptions): Draft {
  const draft = new Draft('', HEAD.join('\n'))
  const mode = modeOf(keys)
  const ip = keys.find('canal.ip')
  const silent = mode !== 'tcp' || keys.flag('canal.withoutNetty')
  if (silent) draft.set('canal.host', '127.0.0.1', 'Canal had no port for clients in this mode')
  else if (ip) draft.carry('canal.host', ip.value, ip)
  else draft.set('canal.host', '0.0.0.0', 'canal.ip was empty: all addresses')
  const port = keys.find('canal.port')
  if (port) draft.carry('canal.port', keys.number('canal.port') ?? port.value, port)
  const user = keys.find('canal.user')
  const hash = keys.find('canal.passwd')
  if (user) draft.carry('canal.user', user.value, user)
  if (user && hash && /^\*?[0-9a-fA-F]{40}$/.test(hash.value)) {
    const variable = options.envSecrets ? 'SLUICE_CANAL_PASSWORD_HASH' : undefined
    draft.carrySecret('canal.passwordHash', hash.value, 'canal.passwd', variable)
  } else if (user) {
    const found = hash ? 'something else' : 'nothing'
    draft.note('refused', 'canal.passwd', `expected 40 hexadecimal digits, found ${found}`)
  }
  if (mode !== 'tcp' && mode !== 'kafka') {
    draft.note(
      'lost',
      'canal.serverMode',
      `${mode}: nothing is sent there, for there is no sink for RocketMQ, RabbitMQ and Pulsar; client 1001 of each destination keeps the cursor`,
      'a Kafka sink, an HTTP sink, or a client of the Canal port that forwards',
    )
  }
  for (const name of missing)
    draft.note('lost', 'canal.destinations', `${name} has no ${name}/instance.properties`)
  if (keys.find('canal.admin.manager'))
    draft.note(
      'lost',
      'canal.admin.manager',
      'this server takes its configuration from canal-admin, not from these files',
      "save the server's and the instances' configuration from canal-admin as canal.properties and <destination>/instance.properties first",
    )
  return draft
}

/** What is left in canal.properties once every destination was mapped, for what no destination overrides. */
export function noteServerRest(draft: Draft, installation: Installation): void {
  const { keys, file } = installation
  for (const key of [
    'canal.destinations',
    'canal.destinations.expr',
    'canal.conf.dir',
    'canal.file.data.dir',
  ])
    keys.find(key)
  for (const found of keys.rest(file)) {
    if (belongsToInstance(found.key)) continue
    const fate = fateOf(found, modeOf(keys))
    if (fate) draft.note(fate.kind, found.key, fate.text, fate.fix)
  }
}
const belongsToInstance = (key: string): boolean =>
  key.startsWith('canal.instance.') || /^(canal\.mq|kafka)\./.test(key)

// ── instances/<destination>.yaml ─────────────────────────────────────────────

export function mapInstance(destination: Destination, options: MappingOptions): Draft {
  const { name, keys } = destination
  const draft = new Draft(name, HEAD.join('\n'))
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$/.test(name))
    draft.note(
      'refused',
      'canal.destinations',
      `${name}: expected letters, digits, "-", "_" and "."`,
    )
  if (cursorsIn(keys, name) === 'group')
    draft.note(
      'refused',
      'canal.instance.global.spring.xml',
      'group mode is not supported',
      'one instance per server',
    )
  const prefix = variablePrefix(name)
  mapSource(draft, keys, options.envSecrets, prefix)
  mapTls(draft, keys)
  mapFilter(draft, destination)
  const gtid = keys.find('canal.instance.gtidon')
  if (gtid && keys.flag('canal.instance.gtidon')) draft.carry('gtid', true, gtid)
  mapStart(draft, destination)
  mapWindow(draft, keys)
  for (const own of ['mode', 'lazy', 'manager.address', 'spring.xml'])
    keys.find(`canal.instance.${name}.${own}`)
  if (modeOf(keys) === 'kafka') kafkaSink(draft, keys, options.envSecrets ? prefix : undefined)
  for (const found of keys.rest()) {
    if (!belongsToInstance(found.key) && !destination.file.properties.has(found.key)) continue
    const fate = fateOf(found, modeOf(keys))
    if (fate) draft.note(fate.kind, found.key, fate.text, fate.fix)
  }
  return draft
}
/** SLUICE_ORDERS of "orders". A name with other characters than letters, digits and "_" gets its bytes, so that no two meet. */
function variablePrefix(name: string): string {
  const plain = /^[a-z0-9_]+$/.test(name)
  const text = name.toUpperCase().replace(/[^A-Z0-9]/g, '_')
  return plain
    ? `SLUICE_${text}`
    : `SLUICE_${text}_${Buffer.from(name).toString('hex').toUpperCase()}`
}

function mapSource(draft: Draft, keys: Keys, envSecrets: boolean, prefix: string): void {
  const address = keys.find('canal.instance.master.address')
  const match = /^(.+?)(?::(\d{1,5}))?$/.exec(address?.value ?? '')
  if (address && match) {
    draft.carry('source.host', match[1]!.replace(/^\[(.*)\]$/, '$1'), address)
    draft.set('source.port', Number(match[2] ?? 3306), address.key)
  } else draft.note('refused', 'canal.instance.master.address', 'expected host:port, found nothing')
  const user = keys.find('canal.instance.dbUsername')
  if (user) draft.carry('source.user', user.value, user)
  else draft.set('source.user', 'retl', "Canal's default of canal.instance.dbUsername")
  const password = keys.find('canal.instance.dbPassword')
  const key = 'canal.instance.dbPassword'
  if (keys.flag('canal.instance.enableDruid')) {
    draft.carrySecret('source.password', undefined, key, `${prefix}_PASSWORD`)
    draft.note(
      'lost',
      'canal.instance.enableDruid',
      "the password is encrypted with Druid's key; it cannot be carried over",
      `put the plain one into the environment variable ${prefix}_PASSWORD, for this command and for the server`,
    )
  } else {
    const value = password?.value ?? 'retl'
    draft.carrySecret('source.password', value, key, envSecrets ? `${prefix}_PASSWORD` : undefined)
  }
  const id = keys.find('canal.instance.mysql.slaveId')
  const serverId = keys.number('canal.instance.mysql.slaveId') ?? 0
  if (id && serverId > 0) draft.carry('source.serverId', serverId, id)
}

const modes: Readonly<Record<string, string>> = {
  DISABLED: 'disabled',
  PREFERRED: 'preferred',
  REQUIRED: 'required',
  VERIFY_CA: 'verify-ca',
  VERIFY_IDENTITY: 'verify-identity',
}
function mapTls(draft: Draft, keys: Keys): void {
  const found = keys.find('canal.instance.master.sslMode')
  if (!found) return
  const mode = modes[found.value.toUpperCase()]
  if (mode) draft.carry('source.tls.mode', mode, found)
  else draft.note('refused', found.key, `expected one of ${Object.keys(modes).join(', ')}`)
}

const ALL = new Set(['.*\\..*', '.*\\\\..*', '.*'])
/** The text that the filter of `client` narrows the instance to; "" when it does not. */
export function clientFilter(destination: Destination, filter: string): string {
  if (filter !== '') return filter
  const regex = destination.keys.text('canal.instance.filter.regex') ?? ''
  return foreignFilters(destination).length > 0 ? regex : ''
}
/** Filters of clients that may let more through than the instance's own. */
function foreignFilters({ keys, meta }: Destination): string[] {
  const regex = keys.text('canal.instance.filter.regex') ?? '.*\\..*'
  if (ALL.has(regex)) return []
  const filters = meta?.clients.map((c) => c.filter) ?? []
  return [...new Set(filters)].filter((f) => f !== '' && f !== regex)
}
function mapFilter(draft: Draft, destination: Destination): void {
  const { keys } = destination
  const regex = keys.find('canal.instance.filter.regex')
  const foreign = foreignFilters(destination)
  if (regex && foreign.length > 0) {
    draft.carry('filter.include', [regex.value, ...foreign], regex)
    draft.note(
      'carried',
      'meta.dat: filter',
      "filter.include: in Canal a client's filter takes the place of the instance's, here it narrows it; so both stand there",
    )
  } else if (regex) draft.carry('filter.include', regex.value, regex)
  const black = keys.find('canal.instance.filter.black.regex')
  if (black) draft.carry('filter.exclude', black.value, black)
  const field = keys.find('canal.instance.filter.field')
  if (field) draft.carry('filter.columns.include', field.value, field)
  const blackField = keys.find('canal.instance.filter.black.field')
  if (blackField) draft.carry('filter.columns.exclude', blackField.value, blackField)
  mapKinds(draft, keys)
}

/** Which kinds of changes are left out. Canal's filter of DDL drops every other statement too. */
function mapKinds(draft: Draft, keys: Keys): void {
  const prefix = 'canal.instance.filter'
  const isOn = (name: string): Found | undefined => {
    const found = keys.find(`${prefix}.${name}`)
    return found && keys.flag(found.key) ? found : undefined
  }
  const ddl = isOn('query.ddl')
  const dml = isOn('query.dml') ?? ddl
  const dcl = isOn('query.dcl') ?? ddl
  if (ddl) draft.carry('filter.statements.ddl', false, ddl)
  if (dml) draft.carry('filter.statements.dml', 'drop', dml)
  if (dcl) draft.carry('filter.statements.dcl', false, dcl)
  const rows = isOn('rows')
  for (const kind of ['insert', 'update', 'delete']) {
    const own = isOn(`dml.${kind}`) ?? rows
    if (own) draft.carry(`filter.rows.${kind}`, false, own)
  }
  const entries = isOn('transaction.entry')
  if (entries) draft.carry('filter.transactionEntries', false, entries)
  const error = isOn('table.error')
  if (!error) return
  draft.carry('ambiguousSchema', 'positional', error)
  draft.note(
    'carried',
    error.key,
    'ambiguousSchema: Canal drops rows whose table it cannot describe; here they are delivered, with the names of their columns by position and a warning',
  )
}

/** As in Canal it counts only where there is no cursor. Never later than Canal would begin. */
function mapStart(draft: Draft, { keys, meta, parsed }: Destination): void {
  const key = 'canal.instance.master'
  const cursors = meta?.clients.some((c) => c.position !== undefined) ?? false
  if (!cursors && parsed !== undefined && parsed.file !== '') {
    draft.set('start.file', parsed.file, 'parse.dat: how far Canal had read')
    draft.set('start.offset', Math.max(4, parsed.offset), 'parse.dat')
    draft.note('carried', 'parse.dat', 'start')
    for (const own of ['gtid', 'journal.name', 'position', 'timestamp']) keys.find(`${key}.${own}`)
    return
  }
  const gtids = keys.find(`${key}.gtid`)
  const file = keys.find(`${key}.journal.name`)
  const offset = keys.find(`${key}.position`)
  const time = keys.find(`${key}.timestamp`)
  if (gtids && keys.flag('canal.instance.gtidon')) {
    draft.carry('start.gtids', gtids.value, gtids)
  } else if (file) {
    const at = keys.number(`${key}.position`)
    draft.carry('start.file', file.value, file)
    if (offset && at !== undefined && at >= 4) draft.carry('start.offset', at, offset)
    if (time && !offset)
      draft.note(
        'carried',
        time.key,
        'start.file: from the beginning of the file, which is safe, but repeats more',
      )
  } else if (time && keys.number(`${key}.timestamp`)) {
    draft.carry('start.timestamp', keys.number(`${key}.timestamp`), time)
  } else draft.set('start', 'latest', 'no start position was set')
}

const MIB = 1024 ** 2
function mapWindow(draft: Draft, keys: Keys): void {
  const size = keys.find('canal.instance.memory.buffer.size')
  const unit = keys.number('canal.instance.memory.buffer.memunit') ?? 1024
  const mode = keys.text('canal.instance.memory.batch.mode') ?? 'MEMSIZE'
  if (!size || mode.toUpperCase() !== 'MEMSIZE') return
  const bytes = (keys.number(size.key) ?? 16_384) * unit
  const mib = Math.min(65_536, Math.max(2, Math.ceil(bytes / MIB))) // two parts of partBytes have room
  draft.carry('windowBytes', `${mib}MiB`, size)
}
