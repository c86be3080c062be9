/** What `sluice check` advises where variables cannot be set by SQL. */
import { expect, test } from 'vitest'
import { managedBy } from '../../src/commands/check/probes.ts'

const advice = (host: string, variables: Record<string, string>, name: string, value: string) =>
  managedBy(host, new Map(Object.entries(variables)))?.(name, value)

test.each([
  [
    'shop.c1.eu-west-1.rds.amazonaws.com',
    {},
    "CALL mysql.rds_set_configuration('binlog retention hours', 168);",
  ],
  [
    '10.0.0.1',
    { basedir: '/rdsdbbin/mysql-8.4/' },
    "CALL mysql.rds_set_configuration('binlog retention hours', 168);",
  ],
  ['10.0.0.1', { version: '8.0.41-google' }, 'turn point-in-time recovery on, with 7 days of logs'],
  [
    'shop.mysql.database.azure.com',
    {},
    'set the server parameter binlog_expire_logs_seconds = 604800',
  ],
  ['db.example.org', { version: '9.7.4', basedir: '/usr/' }, undefined],
])('logs are kept longer on %s %o', (host, variables, expected) => {
  expect(advice(host, variables, 'binlog_expire_logs_seconds', '604800')).toBe(expected)
})
test('another variable', () => {
  expect(advice('x.rds.amazonaws.com', {}, 'binlog_format', 'ROW')).toContain('parameter group')
  expect(advice('x', { version: '8.4.0-google' }, 'binlog_row_image', 'FULL')).toBe(
    'set the database flag binlog_row_image = FULL',
  )
})
