/**
 * Compiles what is here (AssemblyScript) into src/server/rows/wasm.ts:  npm run native
 * The compiler is fetched for the occasion, for nobody but who changes the kernel needs it.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const COMPILER = 'assemblyscript@0.28.20'
const root = new URL('../', import.meta.url).pathname
const sources = ['lines.ts', 'rows.ts', 'values.ts'].map((name) =>
  readFileSync(join(root, 'native', name)),
)
const dir = mkdtempSync(join(tmpdir(), 'sluice-native-'))
try {
  const output = join(dir, 'rows.wasm')
  const options =
    '--runtime stub --importMemory --use abort= --noAssert -O3 --converge --enable bulk-memory --enable simd'
  execFileSync(
    'npx',
    [
      '--yes',
      '--package',
      COMPILER,
      'asc',
      'native/rows.ts',
      'native/lines.ts',
      ...options.split(' '),
      '-o',
      output,
    ],
    { cwd: root, stdio: 'inherit' },
  )
  const base64 = readFileSync(output).toString('base64')
  const lines = base64.match(/.{1,90}/g).map((line) => `  '${line}',`)
  const hash = createHash('sha256').update(Buffer.concat(sources)).digest('hex')
  writeFileSync(
    join(root, 'src/server/rows/wasm.ts'),
    `/**
 * The kernel, native/*.ts, compiled. Made by \`npm run native\`; not for editing.
 */

/** Of the sources this was made from. */
export const SOURCE_SHA256 = '${hash}'

export const rowsModule = (): Uint8Array => Buffer.from(BASE64.join(''), 'base64')

const BASE64 = [
${lines.join('\n')}
]
`,
  )
} finally {
  rmSync(dir, { recursive: true, force: true })
}
