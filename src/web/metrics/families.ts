/**
 * All families of metrics, in the order in which they are shown and in which docs/metrics.md has them; a test compares.
 */
import { renderMetrics } from '../../metrics.ts'
import { canal } from './canal.ts'
import type { Family, Shown } from './family.ts'
import { own } from './own.ts'

export const families: readonly Family[] = [...canal, ...own]

/** The text that Prometheus scrapes. */
export function metricsText(shown: Shown): string {
  return renderMetrics(families.map((family) => ({ ...family, samples: family.samples(shown) })))
}
