/**
 * Every server that can be had: its types and character sets, what another decoder makes of them, its events, and Sluice
 * as a whole process between it and a client. One server each, for all of them.
 */
import { afterAll, beforeAll, describe } from 'vitest'
import { privateMysql, uniqueDatabase, type MysqlServer } from '../support/mysql.ts'
import { matrixServers } from './servers.ts'
import { mariadbTests } from './mariadb.ts'
import { serveTests } from './serve.ts'
import { typeTests } from './types.ts'

describe.each(await matrixServers())('%s', (version) => {
  let server: MysqlServer
  const database = uniqueDatabase('matrix')
  beforeAll(async () => {
    server = await privateMysql(version)
  })
  afterAll(() => server[Symbol.asyncDispose]())

  describe('the whole process', () => serveTests(() => server, database))
  if (version.startsWith('mariadb-'))
    describe('what only MariaDB writes', () => mariadbTests(() => server, database))
  describe('types', () => typeTests(() => server, database))
})
