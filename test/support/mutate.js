/**
 * For test/mutants.ts: every Node process that inherits its NODE_OPTIONS sees files of the source with a text replaced.
 * SLUICE_MUTANT is a list of {file, from, to} as JSON. Plain JavaScript, for it is loaded before anything that could read more.
 */
import * as module from 'node:module'

const edits = JSON.parse(process.env['SLUICE_MUTANT'])

module.registerHooks({
  load(url, context, next) {
    const loaded = next(url, context)
    const edit = edits.find(({ file }) => url.endsWith(`/${file}`))
    if (edit === undefined) return loaded
    const source = Buffer.from(loaded.source).toString()
    if (source.split(edit.from).length !== 2)
      throw new Error(`${edit.file}: expected ${JSON.stringify(edit.from)} once`)
    return { ...loaded, source: source.replace(edit.from, () => edit.to) }
  },
})
