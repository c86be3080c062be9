/**
 * A report as Prometheus' text format, for the textfile collector of the node exporter.
 */
import { remaining, type TableReport, type VerifyReport } from './report.ts'

const label = (text: string): string =>
  text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')

/** `ms`: how long it took. */
export function metricsText(
  { instance, name }: { readonly instance: string; readonly name: string },
  report: VerifyReport,
  ms: number,
): string {
  const who = `instance="${label(instance)}",sink="${label(name)}"`
  const lines: string[] = []
  const family = (metric: string, help: string, samples: readonly string[]): void => {
    lines.push(`# HELP ${metric} ${help}`, `# TYPE ${metric} gauge`, ...samples)
  }
  const kinds = ['missing', 'extra', 'different', 'unsettled', 'refused'] as const
  const each = (sample: (t: TableReport) => string[]): string[] => report.tables.flatMap(sample)
  family(
    'sluice_verify_rows',
    'Rows that were found different at the last verification, by kind',
    each((t) =>
      kinds.map(
        (kind) => `sluice_verify_rows{${who},table="${label(t.table)}",kind="${kind}"} ${t[kind]}`,
      ),
    ),
  )
  family(
    'sluice_verify_remaining',
    'Rows that are still different after the last verification',
    each((t) => [`sluice_verify_remaining{${who},table="${label(t.table)}"} ${remaining(t)}`]),
  )
  const result = { equal: 0, different: 1, incomplete: 2 }[report.result]
  family('sluice_verify_result', '0 equal, 1 different, 2 not all compared', [
    `sluice_verify_result{${who}} ${result}`,
  ])
  family('sluice_verify_seconds', 'Time the last verification took', [
    `sluice_verify_seconds{${who}} ${ms / 1000}`,
  ])
  family('sluice_verify_ended_seconds', 'When it ended, seconds since 1970', [
    `sluice_verify_ended_seconds{${who}} ${Math.round(Date.parse(report.ended) / 1000)}`,
  ])
  return `${lines.join('\n')}\n`
}
