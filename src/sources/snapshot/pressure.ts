/**
 * What a source has to do at this moment, for loads that give way: threads at work, and where it replicates from another
 * server, how far it is behind. Pure questions; who is slower because of them decides elsewhere.
 */
import { SluiceError } from '../../errors.ts'
import type { Connection } from '../../mysql/connection.ts'

const REFUSED = new Set<string>(['QUERY_FAILED', 'ACCESS_DENIED'])

interface Pressure {
  readonly threadsRunning: number
  readonly replicaLagMs: number | undefined
}

/**
 * Asks one source again and again: remembers which statement it knows. Throws as `query` does; without the right to ask for
 * the lag (REPLICATION CLIENT), that is not known.
 */
export function pressureProbe(): (connection: Pick<Connection, 'query'>) => Promise<Pressure> {
  // MySQL 8.0.22 renamed the statement, 8.4 dropped the old name
  const statements = ['SHOW REPLICA STATUS', 'SHOW SLAVE STATUS']
  return async (connection) => {
    const [threads] = await connection.query<{ Value: string }>(
      "SHOW GLOBAL STATUS LIKE 'Threads_running'",
    )
    const threadsRunning = Number(threads?.Value ?? 0)
    while (statements.length > 0) {
      try {
        const rows = await connection.query<Record<string, unknown>>(statements[0]!)
        return { threadsRunning, replicaLagMs: lagOf(rows) }
      } catch (error) {
        const refused = error instanceof SluiceError && REFUSED.has(error.code)
        if (!refused) throw error
        statements.shift()
      }
    }
    return { threadsRunning, replicaLagMs: undefined }
  }
}
/** Of the channel that is furthest behind; one that does not say how far counts for nothing. */
function lagOf(rows: readonly Record<string, unknown>[]): number | undefined {
  const lags = rows.map((row) => row['Seconds_Behind_Source'] ?? row['Seconds_Behind_Master'])
  const known = lags.flatMap((lag) => (lag === null || lag === undefined ? [] : [Number(lag)]))
  return known.length === 0 ? undefined : Math.max(...known) * 1000
}
