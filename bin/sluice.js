#!/usr/bin/env node
/**
 * The command's launcher: plain JavaScript that also runs on an older Node. It finds a Node that is new enough (this
 * one, else the `node` package of the installation) and runs src/main.ts in a checkout or dist/main.js in an installed
 * package. Signals and the exit code pass through. What Node compiles is kept in its compile cache, also for the
 * reader thread: a second start takes a fraction of the time, and in a checkout nobody loads the type stripper again.
 *
 * What runs for long runs with V8 set up for a small heap. The sizes of a heap are fixed when it is made, so that has to
 * be said on Node's command line: where it was not, this process begins anew as itself (execve: the same pid).
 */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import module, { createRequire } from 'node:module'
import { constants, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const NEED = [24, 15]
const root = dirname(dirname(fileURLToPath(import.meta.url)))
const main = ['src/main.ts', 'dist/main.js'].map((p) => join(root, p)).find((p) => existsSync(p))

/**
 * What lives on the heap is small and turns over fast (the bytes of changes are in slabs, outside). V8's own choice is to
 * let the youngest generation grow to 32 MB while modules load, and to collect the old one so late that a busy start
 * leaves it twice as large for good. Measured: 20 to 50 MB less, at the same CPU time; with
 * --optimize-for-size another 10 MB less, for a quarter more CPU time.
 */
const SMALL_HEAP = [
  '--max-semi-space-size=4',
  '--heap-growing-percent=30',
  '--no-parallel-scavenge', // so little survives that waking threads for it costs more than it saves
]
/**
 * And glibc's: one arena for all threads but one, and what V8's compilers free in megabytes goes back to the system
 * instead of staying with the arena. 10 MB less. What the environment says already wins.
 */
const SMALL_MALLOC = {
  MALLOC_ARENA_MAX: '2',
  MALLOC_TRIM_THRESHOLD_: String(1024 * 1024),
  MALLOC_MMAP_THRESHOLD_: String(256 * 1024),
}
const lasting = ['serve', 'work'].includes(process.argv[2] ?? '')
/** Of it, what Node's command line and NODE_OPTIONS do not speak of: what was said on purpose wins. */
const said = [...process.execArgv, process.env.NODE_OPTIONS].join(' ')
const wanted = lasting ? SMALL_HEAP.filter((flag) => !said.includes(flag.split('=')[0])) : []
const environment = { ...(lasting && SMALL_MALLOC), ...process.env }

/** Whether a version like "24.15.0" is enough. */
function enough(version) {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > NEED[0] || (major === NEED[0] && minor >= NEED[1])
}

/** The node binary that the `node` package brought, or undefined. */
function packagedNode() {
  const places = [join(root, 'node_modules/node/bin/node'), join(root, 'node_modules/.bin/node')]
  try {
    places.unshift(
      join(dirname(createRequire(import.meta.url).resolve('node/package.json')), 'bin/node'),
    )
  } catch {
    // not installed beside us: the fixed places remain
  }
  return places.find((p) => existsSync(p))
}

/** As Node's own default; NODE_COMPILE_CACHE and NODE_DISABLE_COMPILE_CACHE are respected. */
const cache = process.env.NODE_COMPILE_CACHE ?? join(tmpdir(), 'node-compile-cache')

/** Runs `node main …` as a child that shares our terminal, and ends as it ends. */
function hand(node, entry) {
  const child = spawn(node, [...wanted, entry, ...process.argv.slice(2)], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...environment, NODE_COMPILE_CACHE: cache },
  })
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2']
  for (const signal of signals) process.on(signal, () => child.kill(signal))
  child.on('error', (error) => {
    console.error(`sluice: cannot run ${node}: ${error.message}`)
    process.exit(70)
  })
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)))
}

if (!main) {
  console.error(`sluice: neither src/main.ts nor dist/main.js in ${root}; run "npm run build"`)
  process.exitCode = 70
} else if (enough(process.versions.node)) {
  // Not where a parent talks to us over a channel, which would not outlive it: src/commands/serve.ts does what it can.
  if (wanted.length > 0 && process.platform !== 'win32' && !process.channel) {
    const { execPath, execArgv, argv } = process
    process.execve(execPath, [execPath, ...wanted, ...execArgv, ...argv.slice(1)], environment)
  }
  module.enableCompileCache(cache)
  process.env.NODE_COMPILE_CACHE = cache // for threads
  await import(pathToFileURL(main).href)
} else {
  const node = packagedNode()
  if (node) hand(node, main)
  else {
    console.error(
      `sluice: needs Node ${NEED.join('.')} or newer, this is ${process.versions.node} (${process.execPath}). ` +
        'Install a newer one, or run "npm ci" in the checkout: it brings one.',
    )
    process.exitCode = 70
  }
}
