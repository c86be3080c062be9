/** The metrics, their manual, the dashboard and the alert rules say the same. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { renderMetrics } from '../../src/metrics.ts'
import { families } from '../../src/web/metrics/families.ts'

const names = families.map((f) => f.name)
/** Names of series: a histogram has three of them. */
const series = new Set(
  families.flatMap(({ name, type }) =>
    type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
  ),
)
const used = (expression: string): string[] =>
  expression.replace(/\{[^}]*\}|"[^"]*"/g, '').match(/\b(?:sluice|canal|process)_\w+/g) ?? []

test('docs/metrics.md has exactly these metrics, with their types and help', () => {
  const manual = readFileSync('docs/metrics.md', 'utf8')
    .split('\n')
    .filter((line) => /^\| `\w+` \| (gauge|counter|histogram) \|/.test(line))
  expect(manual).toEqual(
    families.map(
      ({ name, type, help }) => `| \`${name}\` | ${type} | ${help.replaceAll('|', '\\|')} |`,
    ),
  )
})
test('every name of Canal is there, and ours follow the custom', () => {
  expect(new Set(names).size).toBe(names.length)
  expect(names.filter((name) => name.startsWith('canal_'))).toHaveLength(24)
  for (const { name, type } of families) {
    if (!name.startsWith('canal_'))
      expect([name, name.endsWith('_total')]).toEqual([name, type === 'counter'])
  }
})

describe('the dashboard and the alert rules', () => {
  interface Dashboard {
    panels: {
      title: string
      targets: { expr: string }[]
      gridPos: { x: number; y: number; w: number; h: number }
    }[]
    templating: { list: { query: string }[] }
  }
  interface Rules {
    groups: { rules: { alert: string; expr: string; annotations: { summary: string } }[] }[]
  }
  const dashboard = JSON.parse(readFileSync('conf/grafana.json', 'utf8')) as Dashboard
  const rules = (parse(readFileSync('conf/alerts.yaml', 'utf8')) as Rules).groups.flatMap(
    (g) => g.rules,
  )

  test('use only metrics that there are', () => {
    const expressions = [
      ...dashboard.panels.flatMap((p) => p.targets.map((t) => t.expr)),
      ...dashboard.templating.list.map((t) => t.query),
      ...rules.map((r) => r.expr),
    ]
    expect(expressions.length).toBeGreaterThan(25)
    expect(expressions.flatMap(used).filter((name) => !series.has(name))).toEqual([])
    expect(expressions.flatMap(used).length).toBeGreaterThan(expressions.length - 3)
  })
  test('have panels that do not lie on each other, and rules with a name and a summary', () => {
    const cells = dashboard.panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, i) => `${x + (i % w)},${y + Math.floor(i / w)}`),
    )
    expect(new Set(cells).size).toBe(cells.length)
    expect(dashboard.panels.every((p) => p.gridPos.x + p.gridPos.w <= 24)).toBe(true)
    expect(new Set(rules.map((r) => r.alert)).size).toBe(rules.length)
    expect(rules.every((r) => r.annotations.summary !== '')).toBe(true)
  })
})

test('text: labels are escaped, what is not known is left out', () => {
  const text = renderMetrics([
    {
      name: 'a_total',
      type: 'counter',
      help: 'Back\\slash and\nline',
      samples: [
        [{ destination: 'a"b\\c\nd' }, 1.5],
        [{ destination: 'e' }, undefined],
        [{}, Infinity, '_sum'],
      ],
    },
  ])
  expect(text).toBe(
    '# HELP a_total Back\\\\slash and\\nline\n# TYPE a_total counter\n' +
      'a_total{destination="a\\"b\\\\c\\nd"} 1.5\na_total_sum +Inf\n',
  )
})
