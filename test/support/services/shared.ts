/**
 * The servers of sinks that one run shares, one of each. Their addresses go into the environment, where worker processes
 * and child processes find them. A server that the environment names already is used as it is. What cannot be had is an
 * error in CI, and elsewhere a notice that nobody can overlook.
 */
import {
  fetchService,
  hasService,
  privateService,
  serviceNames,
  serviceVariable,
} from '../services.ts'
import type { ServiceName } from '../services.ts'
import { announced, inCi, shout } from './notice.ts'

/**
 * Starts what is missing, all at once; `SLUICE_TEST_SERVICES=redis,kafka` narrows it down, but not in CI. Disposing stops
 * what was started here. Throws when the run cannot go on.
 */
export async function startServices(): Promise<AsyncDisposable> {
  const stack = new AsyncDisposableStack()
  const missing = wanted().filter((name) => !hasService(name))
  const results = await Promise.allSettled(missing.map((name) => startOne(name, stack)))
  const reasons = results.flatMap((result, i) =>
    result.status === 'rejected' ? [`${missing[i]}: ${(result.reason as Error).message}`] : [],
  )
  if (reasons.length === 0) return stack
  if (inCi()) {
    await stack.disposeAsync()
    throw new Error(`CI needs every server.\n${reasons.join('\n')}`)
  }
  const lines = reasons.join('\n').split('\n')
  shout('Not every server is here: what is tested on it is SKIPPED.', ...lines)
  return stack
}

function wanted(): readonly ServiceName[] {
  const only = process.env['SLUICE_TEST_SERVICES']
  if (only === undefined || inCi()) return serviceNames
  const names = only.split(',')
  const unknown = names.filter((name) => !(serviceNames as readonly string[]).includes(name))
  if (unknown.length > 0)
    throw new Error(`SLUICE_TEST_SERVICES knows ${serviceNames.join(', ')}, not ${unknown[0]}`)
  const left = serviceNames.filter((name) => !names.includes(name) && !hasService(name))
  if (left.length > 0)
    shout(`SLUICE_TEST_SERVICES leaves out ${left.join(', ')}: what is tested on it is SKIPPED.`)
  return names as ServiceName[]
}

async function startOne(name: ServiceName, stack: AsyncDisposableStack): Promise<void> {
  const from = await fetchService(name)
  const service = await announced(`starting ${name} (${from})`, () => privateService(name))
  stack.use(service)
  const key = serviceVariable(name)
  process.env[key] = service.url
  stack.defer(async () => void delete process.env[key])
}
