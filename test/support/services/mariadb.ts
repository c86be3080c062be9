/** MariaDB as a target of sinks: the same server that `privateMysql('mariadb-10.11')` starts as a source. */
import { fetchMysql, privateMysql } from '../mysql.ts'
import type { Definition } from './service.ts'

export interface MariadbOptions {
  /** More arguments of mariadbd; they win. */
  readonly args?: readonly string[]
}

export const mariadb: Definition<MariadbOptions> = {
  name: 'mariadb',
  scheme: 'mysql',
  defaultPort: 3306,
  fetch: async () => (await fetchMysql('mariadb-10.11')).from,
  start: (options = {}) => privateMysql('mariadb-10.11', options),
}
