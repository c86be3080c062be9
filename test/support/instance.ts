/** An instance in the test's process, from an instance file, silent. */
import { pino } from 'pino'
import { loadInstance, orThrow } from '../../src/config/config.ts'
import { Instance } from '../../src/instance.ts'

/** Opens and starts it; its state is kept in `dataDir`. Throws CONFIG_INVALID. */
export function startInstance(name: string, file: string, dataDir: string): Instance {
  const config = orThrow(loadInstance(file, {}))
  const instance = Instance.open({ name, config, dataDir, log: pino({ level: 'silent' }) })
  instance.start()
  return instance
}
