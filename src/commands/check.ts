/**
 * `sluice check`: validates the configuration, tests every source, and says how to fix what is wrong. Changes nothing.
 */
import { existsSync } from 'node:fs'
import { basename } from 'node:path'
import type { Arguments } from '../cli.ts'
import { comparePositions } from '../change.ts'
import {
  DEFAULT_CONFIG,
  destinationOf,
  instanceFiles,
  loadInstance,
  loadServer,
} from '../config/config.ts'
import type { InstanceConfig } from '../config/config.ts'
import { formatProblem } from '../config/yaml.ts'
import type { Problem } from '../config/yaml.ts'
import { SluiceError } from '../errors.ts'
import { compileFilter } from '../filter.ts'
import { stateFile } from '../instance.ts'
import { Connection } from '../mysql/connection.ts'
import { State } from '../store/state.ts'
import { connectOptions } from '../upstream/connect.ts'
import type { Needed } from '../upstream/purge.ts'
import { instanceFile, painter } from './common.ts'
import { secondOpinion } from './check/opinion.ts'
import { probe, readVariables } from './check/probes.ts'
import type { Finding } from './check/probes.ts'

/** What was found about one file or one source. */
interface Report {
  readonly subject: string
  readonly findings: readonly Finding[]
}

/** Exit code 1 when anything is a failure. */
export async function check(args: Arguments): Promise<number> {
  const events = args.number('events')
  const file = args.text('config') ?? DEFAULT_CONFIG
  const { config: server, problems } = loadServer(file)
  const show = reporter(args)
  const reports: Report[] = []
  const report = (r: Report): void => {
    reports.push(r)
    show.report(r)
  }
  report({ subject: file, findings: problemFindings(problems) })
  if (server) {
    const wanted = args.words.map((name) => instanceFile(server, name))
    const files = wanted.length > 0 ? wanted : [...instanceFiles(server.instancesDir).values()]
    if (files.length === 0) {
      const message = `no instance files in ${server.instancesDir}`
      report({
        subject: server.instancesDir,
        findings: [
          { check: 'instances', level: 'warn', message, fix: 'copy instances/example.yaml' },
        ],
      })
    }
    for (const path of files) {
      const { config, problems: wrong } = loadInstance(path)
      report({ subject: path, findings: problemFindings(wrong) })
      if (!config) continue
      const name = destinationOf(path)
      const { host, port, user } = config.source
      const findings = await checkSource(config, stateFile(server.dataDir, name))
      if (args.flag('second-opinion') && findings.every((f) => f.level !== 'fail')) {
        findings.push(...(await secondOpinion(config, events)))
      }
      report({ subject: `${name}: ${user}@${host}:${port}`, findings })
    }
  }
  show.end(reports)
  return reports.some((r) => r.findings.some((f) => f.level === 'fail')) ? 1 : 0
}

function problemFindings(problems: readonly Problem[]): Finding[] {
  if (problems.length === 0) return [{ check: 'configuration', level: 'ok', message: 'valid' }]
  return problems.map((p) => ({
    check: 'configuration',
    level: 'fail',
    message: formatProblem({ ...p, file: basename(p.file) }),
  }))
}

async function checkSource(config: InstanceConfig, state: string): Promise<Finding[]> {
  let connection: Connection
  try {
    connection = await Connection.open(connectOptions(config.source))
  } catch (error) {
    return [connectFailure(config, error)]
  }
  try {
    const variables = await readVariables(connection)
    const filter = compileFilter(config.filter)
    return await probe({ connection, config, variables, filter, needed: neededPlaces(state) })
  } catch (error) {
    return [connectFailure(config, error)]
  } finally {
    connection.close()
  }
}
function connectFailure({ source }: InstanceConfig, error: unknown): Finding {
  const code = error instanceof SluiceError ? error.code : undefined
  const message = error instanceof Error ? error.message : String(error)
  const user = `'${source.user}'@'%'`
  let fix = `is mysqld running and reachable at ${source.host}:${source.port}? source.host and source.port say where`
  if (code === 'ACCESS_DENIED') {
    fix =
      `CREATE USER ${user} IDENTIFIED BY '…'; GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO ${user}; ` +
      'or correct source.user and source.password'
  } else if (code === 'TLS_FAILED') {
    fix = `source.tls.mode is ${source.tls.mode}; verify-ca and verify-identity need the right source.tls.ca`
  }
  return { check: 'connection', level: 'fail', message, fix }
}
/** Saved positions with a place in the log, oldest first. Positions known only by GTID have none. */
function neededPlaces(state: string): Needed[] {
  if (!existsSync(state)) return []
  const { cursors, values } = State.read(state)
  const epoch = Number(values.get('epoch') ?? 0)
  return cursors
    .filter((c) => c.acked.epoch === epoch && c.acked.file !== '')
    .map((c) => ({ client: c.client, position: c.acked }))
    .sort((a, b) => comparePositions(a.position, b.position))
}

interface Reporter {
  report(report: Report): void
  end(reports: readonly Report[]): void
}
function reporter(args: Arguments): Reporter {
  if (args.flag('json')) {
    return {
      report: () => {},
      end: (reports) => console.log(JSON.stringify(reports, null, 2)),
    }
  }
  const paint = painter(process.stdout)
  const labels = { ok: paint.green('ok  '), warn: paint.yellow('warn'), fail: paint.red('fail') }
  return {
    report: ({ subject, findings }) => {
      console.log(paint.bold(subject))
      for (const f of findings) {
        console.log(`  ${labels[f.level]} ${f.check}: ${f.message}`)
        if (f.fix !== undefined) console.log(`       ${paint.dim('fix:')} ${f.fix}`)
      }
    },
    end: (reports) => {
      const all = reports.flatMap((r) => r.findings)
      const count = (level: Finding['level']): number => all.filter((f) => f.level === level).length
      console.log(`${count('ok')} ok, ${count('warn')} warnings, ${count('fail')} failures`)
    },
  }
}
