/** The suffix of a test file says what it needs: nothing, a real MySQL, the servers of sinks too, the whole process, every server. */
import { defineConfig } from 'vitest/config'
import { mysqlPossible } from './test/support/mysqld/shared.ts'
import { shout } from './test/support/services/notice.ts'

const project = (name: string, include: string[], more: object = {}) => ({
  test: { name, include, environment: 'node' as const, ...more },
})

const unit = project('unit', ['test/**/*.test.ts'], {
  exclude: [
    'test/**/*.mysql.test.ts',
    'test/**/*.e2e.test.ts',
    'test/**/*.sink.test.ts',
    'test/**/*.matrix.test.ts',
    'node_modules/**',
  ],
  testTimeout: 20_000,
})
const onMysql = [
  project('mysql', ['test/**/*.mysql.test.ts'], {
    globalSetup: ['test/support/global.ts'],
    testTimeout: 60_000,
    hookTimeout: 180_000,
  }),
  project('e2e', ['test/**/*.e2e.test.ts'], {
    globalSetup: ['test/support/global.ts'],
    testTimeout: 300_000,
    hookTimeout: 180_000,
    fileParallelism: false,
  }),
  project('matrix', ['test/**/*.matrix.test.ts'], { testTimeout: 120_000, hookTimeout: 180_000 }),
  project('sinks', ['test/**/*.sink.test.ts'], {
    globalSetup: ['test/support/global.ts'],
    testTimeout: 120_000,
    hookTimeout: 180_000,
    fileParallelism: false,
  }),
]

const possible = mysqlPossible()
if (!possible)
  shout(
    'There is no way to a MySQL on this machine: everything that needs one is SKIPPED.',
    'Give one: SLUICE_TEST_MYSQL=mysql://user:password@host:port (row format, GTIDs, all rights).',
  )

export default defineConfig({ test: { projects: possible ? [unit, ...onMysql] : [unit] } })
