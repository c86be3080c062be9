/**
 * `sluice work`: configuration → worker → wait for a signal → stop. The worker itself is sinks/work/worker.ts.
 */
import type { Arguments } from '../cli.ts'
import { orThrow } from '../config/config.ts'
import { DEFAULT_WORKER_CONFIG, loadWorker, workerTypes } from '../config/worker.ts'
import { SluiceError, withoutPasswords } from '../errors.ts'
import { createLogger } from '../logger.ts'
import { Control, controlFile } from '../sinks/letters/control.ts'
import { Worker } from '../sinks/work/worker.ts'
import { dieOfBugs, firstSignal, requireWritable } from './common.ts'
import { letHeapGrow } from './heap.ts'

/** Runs until SIGTERM or SIGINT, then returns 0; 1 when the worker cannot go on. */
export async function work(args: Arguments): Promise<number> {
  letHeapGrow()
  const config = orThrow(loadWorker(args.text('config') ?? DEFAULT_WORKER_CONFIG))
  const log = createLogger(config.log.level, config.log.stream === 'stderr' ? 2 : 1)
  const stopped = firstSignal(log)
  dieOfBugs(log)
  const { dataDir, group, sink, instance, kafka, topics } = config
  requireWritable(dataDir)
  const control = Control.open(controlFile(dataDir, group))
  try {
    const type = workerTypes.find((t) => t.type === sink.type)!
    const worker = new Worker({ instance, kafka, topics, group, sink, type, control, log })
    const stop = new AbortController()
    const signalled = stopped.then((signal) => {
      log.info({ signal }, `${signal}: stopping`)
      stop.abort()
    })
    await worker.run(stop.signal)
    await signalled
    log.info('stopped')
    return 0
  } catch (error) {
    const message = withoutPasswords(error instanceof Error ? error.message : String(error))
    const code = error instanceof SluiceError ? { code: error.code } : {}
    log.fatal(code, `the worker cannot go on: ${message}`)
    return 1
  } finally {
    control.close()
  }
}
