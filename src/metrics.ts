/**
 * Metric families as Prometheus reads them: its text format, version 0.0.4. Made when somebody scrapes; knows no metric.
 */

/** A family and its samples now. */
export interface ShownFamily {
  readonly name: string
  readonly type: string
  readonly help: string
  readonly samples: Iterable<
    readonly [
      labels: Readonly<Record<string, string>>,
      value: number | undefined, // undefined: left out
      part?: string, // behind the name
    ]
  >
}
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

export function renderMetrics(families: Iterable<ShownFamily>): string {
  let text = ''
  for (const { name, type, help, samples } of families) {
    text += `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}\n`
    for (const [labels, value, part = ''] of samples) {
      if (value !== undefined) text += `${name}${part}${labelText(labels)} ${numberText(value)}\n`
    }
  }
  return text
}
function labelText(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}
const escaped = (text: string): string =>
  text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
function numberText(value: number): string {
  if (Number.isFinite(value)) return String(value)
  return Number.isNaN(value) ? 'NaN' : value > 0 ? '+Inf' : '-Inf'
}
