/**
 * Canal's rules for topics and partitions (canal.mq.dynamicTopic, canal.mq.partitionHash), as in its MQMessageUtils: lists
 * split at commas and semicolons; a rule with any of * ? + | ( ) { } [ ] \ $ ^ is a pattern for the whole name, whatever
 * its case, else it is compared, whatever its case; the first match wins. And the two hashes that decide about partitions:
 * String.hashCode of Java for Canal's rules, murmur2 as Kafka's own producers use it for keys. Pure.
 */
import { SluiceError } from '../../errors.ts'

type Matches = (name: string) => boolean
const PATTERN = /[*?+|(){}[\]\\$^]/

function matcher(rule: string): Matches {
  if (!PATTERN.test(rule)) {
    const plain = rule.toLowerCase()
    return (name) => name.toLowerCase() === plain
  }
  try {
    const pattern = new RegExp(`^(?:${rule})$`, 'i')
    return (name) => pattern.test(name)
  } catch (cause) {
    throw new SluiceError('CONFIG_INVALID', `expected a pattern, got ${JSON.stringify(rule)}`, {
      cause,
    })
  }
}
const items = (list: string): string[] =>
  list
    .split(/[,;]/)
    .map((item) => item.trim())
    .filter((item) => item !== '')

interface TopicRule {
  readonly topic: string | undefined // undefined: the name that matched
  readonly ofTable: boolean
  readonly matches: Matches
}
/** (database, table) → topic; undefined where no rule matches. */
export type TopicRules = (database: string, table: string) => string | undefined

/** Throws CONFIG_INVALID. */
export function parseTopicRules(list: string): TopicRules {
  const rules = items(list).map((item): TopicRule => {
    const colon = item.indexOf(':')
    const rule = colon < 0 ? item : item.slice(colon + 1).trim()
    const topic = colon < 0 ? undefined : item.slice(0, colon).trim()
    // a pattern names a table where it has an escaped dot, a plain name where it has a dot
    const ofTable = PATTERN.test(rule) ? rule.includes('\\.') : rule.includes('.')
    return { topic, ofTable, matches: matcher(rule) }
  })
  return (database, table) => {
    if (database === '' || table === '') return undefined
    const full = `${database}.${table}`
    for (const { topic, ofTable, matches } of rules)
      if (ofTable && matches(full)) return (topic ?? full.toLowerCase()).replaceAll('.', '_')
    for (const { topic, ofTable, matches } of rules)
      if (!ofTable && matches(database))
        return (topic ?? database.toLowerCase()).replaceAll('.', '_')
    return undefined
  }
}

/** By the table's name, by its primary key, or by columns. */
export type HashRule = 'table' | 'key' | readonly string[]
/** (database, table) → rule; undefined: partition 0. */
export type HashRules = (database: string, table: string) => HashRule | undefined

/** Throws CONFIG_INVALID. */
export function parseHashRules(list: string): HashRules {
  const rules = items(list).map((item) => {
    const colon = item.indexOf(':')
    const rule = colon < 0 ? item : item.slice(0, colon).trim()
    const by = colon < 0 ? '' : item.slice(colon + 1).trim()
    const hash: HashRule =
      by === '' ? 'table' : by === '$pk$' ? 'key' : by.split('^').map((name) => name.trim())
    return { matches: matcher(rule), hash }
  })
  return (database, table) => {
    const full = `${database}.${table}`
    return rules.find(({ matches }) => matches(full))?.hash
  }
}

/** Java's String.hashCode: over UTF-16 units, 32 bits. */
export function javaHash(text: string): number {
  let hash = 0
  for (let i = 0; i < text.length; i++) hash = (Math.imul(hash, 31) + text.charCodeAt(i)) | 0
  return hash
}
/** `Math.abs(Math.abs(hash) % n)` of Java, where the absolute value of the least int is itself. */
export function canalPartition(hash: number, count: number): number {
  const positive = hash === -0x8000_0000 ? hash : Math.abs(hash)
  return Math.abs(positive % count)
}

const M = 0x5bd1_e995
/** Kafka's murmur2 of bytes[from, to), made positive as its producers do. */
export function keyHash(bytes: Uint8Array, from: number, to: number): number {
  const length = to - from
  let h = 0x9747_b28c ^ length
  let at = from
  for (const last = to - 3; at < last; at += 4) {
    let k = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
    k = Math.imul(k, M)
    k = Math.imul(k ^ (k >>> 24), M)
    h = Math.imul(h, M) ^ k
  }
  const left = to - at
  if (left >= 3) h ^= bytes[at + 2]! << 16
  if (left >= 2) h ^= bytes[at + 1]! << 8
  if (left >= 1) h = Math.imul(h ^ bytes[at]!, M)
  h = Math.imul(h ^ (h >>> 13), M)
  return (h ^ (h >>> 15)) & 0x7fff_ffff
}
