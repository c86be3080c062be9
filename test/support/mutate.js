/**
 * For test/mutants.ts: every Node process that inherits its NODE_OPTIONS sees files of the source with a text replaced.
 * SLUICE_MUTANT is a list of {file, from, to} as JSON. Plain JavaScript, for it is loaded before anything that could read more.
 */
import * as module from 'node:module'

const edits = JSON.parse(process.env['SLUICE_MUTANT'])

module.registerHooks({
  load(url, context, next) {
    const loaded = next(url, context)
    const own = edits.filter(({ file }) => url.endsWith(`/${file}`))
    if (own.length === 0) return loaded
    let source = Buffer.from(loaded.source).toString()
    for (const { file, from, to } of own) {
      if (source.split(from).length !== 2)
        throw new Error(`${file}: expected ${JSON.stringify(from)} once`)
      source = source.replace(from, () => to)
    }
    return { ...loaded, source }
  },
})
