/** The suffix of a test file says what it needs: nothing, a real MySQL, the servers of sinks too, the whole process, every server. */
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { defineConfig } from 'vitest/config'
import { mysqlPossible } from './test/support/mysqld/shared.ts'
import { shout } from './test/support/services/notice.ts'

/**
 * Most of the time a test waits: for a server, a process, a time limit. So three files at a time even on two cores, out of
 * one queue for all projects (the same number for each: vitest would run projects with different ones after one another).
 * What a file does to a shared server must therefore concern nobody else: names of its own there, or a private server.
 */
const maxWorkers = Math.max(3, availableParallelism() - 1)

/** As bin/sluice.js does: what tests start from the sources starts with a third of the processor time. */
const cache = process.env['NODE_COMPILE_CACHE'] ?? join(tmpdir(), 'node-compile-cache')

const project = (name: string, include: string[], more: object = {}) => ({
  test: {
    name,
    include,
    environment: 'node' as const,
    maxWorkers,
    env: { NODE_COMPILE_CACHE: cache },
    // a second, vitest's own, is little where three files share two cores
    expect: { poll: { timeout: 20_000 } },
    ...more,
  },
})

const unit = project('unit', ['test/**/*.test.ts'], {
  exclude: [
    'test/**/*.mysql.test.ts',
    'test/**/*.e2e.test.ts',
    'test/**/*.sink.test.ts',
    'test/**/*.matrix.test.ts',
    'node_modules/**',
  ],
  testTimeout: 60_000,
})
const onMysql = [
  project('mysql', ['test/**/*.mysql.test.ts'], {
    globalSetup: ['test/support/global.ts'],
    testTimeout: 120_000,
    hookTimeout: 180_000,
  }),
  project('e2e', ['test/**/*.e2e.test.ts'], {
    globalSetup: ['test/support/global.ts'],
    testTimeout: 300_000,
    hookTimeout: 180_000,
  }),
  project('matrix', ['test/**/*.matrix.test.ts'], { testTimeout: 120_000, hookTimeout: 180_000 }),
  project('sinks', ['test/**/*.sink.test.ts'], {
    globalSetup: ['test/support/global.ts'],
    testTimeout: 120_000,
    hookTimeout: 180_000,
  }),
]

const possible = mysqlPossible()
if (!possible)
  shout(
    'There is no way to a MySQL on this machine: everything that needs one is SKIPPED.',
    'Give one: SLUICE_TEST_MYSQL=mysql://user:password@host:port (row format, GTIDs, all rights).',
  )

export default defineConfig({ test: { projects: possible ? [unit, ...onMysql] : [unit] } })
