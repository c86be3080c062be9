/**
 * The console's files, read once at the start: what is listed here is served, and nothing else. The pages ask nobody but this
 * server, and run no script but these; a policy in the answer's head makes the browser keep to that.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Asset {
  readonly text: string
  readonly type: string
}
const SCRIPT = 'text/javascript; charset=utf-8'
const files: Readonly<Record<string, readonly [file: string, type: string]>> = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/console/style.css': ['style.css', 'text/css; charset=utf-8'],
  '/console/app.js': ['app.js', SCRIPT],
  '/console/api.js': ['api.js', SCRIPT],
  '/console/act.js': ['act.js', SCRIPT],
  '/console/dom.js': ['dom.js', SCRIPT],
  '/console/editor.js': ['editor.js', SCRIPT],
  '/console/pages.js': ['pages.js', SCRIPT],
  '/console/tables.js': ['tables.js', SCRIPT],
  '/console/tail.js': ['tail.js', SCRIPT],
}
export const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
  "frame-ancestors 'none'; require-trusted-types-for 'script'"

export const assets: ReadonlyMap<string, Asset> = new Map(
  Object.entries(files).map(([path, [file, type]]) => [
    path,
    { text: readFileSync(join(import.meta.dirname, file), 'utf8'), type },
  ]),
)
