/**
 * What a family of metrics is, and how one is made of plain numbers of every instance, client, sink or destination.
 */
import type { Counters, Traffic } from '../../server/clients.ts'
import type { LoadStatus } from '../../snapshot/load.ts'
import type { InstanceFacts } from '../facts.ts'
import type { Stage } from '../health.ts'

/** Everything that is shown. */
export interface Shown {
  readonly instances: readonly InstanceFacts[]
  readonly stages: readonly Stage[]
  readonly canal: Counters | undefined // undefined: the port is not open yet
  readonly traffic: ReadonlyMap<string, Readonly<Traffic>>
  readonly admin: { readonly requests: readonly number[]; readonly refused: number }
  readonly version: string
}
/** The labels of a sample and its value; undefined: not known, and left out. `part` goes behind the name. */
export type Sample = readonly [
  labels: Readonly<Record<string, string>>,
  value: number | undefined,
  part?: string,
]
export interface Family {
  readonly name: string
  readonly type: 'gauge' | 'counter' | 'histogram'
  readonly help: string
  samples(shown: Shown): Iterable<Sample>
}

export const family = (
  name: string,
  type: Family['type'],
  help: string,
  samples: Family['samples'],
): Family => ({ name, type, help, samples })

type OfInstance = (i: InstanceFacts, destination: string) => Iterable<Sample>
export const each =
  (of: OfInstance): Family['samples'] =>
  ({ instances }) =>
    instances.flatMap((i) => [...of(i, i.member.name)])
/** One number of every instance that runs. */
export const one = (
  of: (i: InstanceFacts) => number | undefined,
  more: (i: InstanceFacts) => Record<string, string> = () => ({}),
): Family['samples'] =>
  each((i, destination) => (i.status ? [[{ destination, ...more(i) }, of(i)]] : []))
/** One number of every client, sinks included. */
export const client = (of: (c: InstanceFacts['clients'][number]) => number | undefined) =>
  each((i, destination) =>
    i.clients.map((c): Sample => [{ destination, client: c.status.client }, of(c)]),
  )
export const sink = (of: (s: InstanceFacts['sinks'][number]) => number | undefined) =>
  each((i, destination) =>
    i.sinks.map((s): Sample => [{ destination, sink: s.name, type: s.type }, of(s)]),
  )
/** Loads of whole tables; a client may have one of a part beside it. */
export const wholeLoads = (i: InstanceFacts): LoadStatus[] =>
  (i.status?.snapshots ?? []).filter(({ where, keys }) => where === null && keys === null)
/** One number of every client's last load. */
export const snapshot = (of: (load: LoadStatus) => number) =>
  each((i, destination) =>
    wholeLoads(i).map((load): Sample => [{ destination, client: load.client }, of(load)]),
  )
export const perDestination =
  (of: (t: Readonly<Traffic>) => number): Family['samples'] =>
  ({ traffic }) =>
    [...traffic].map(([destination, t]): Sample => [{ destination }, of(t)])

export const seconds = (ms: number | undefined): number | undefined =>
  ms === undefined ? undefined : ms / 1000
export const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)
