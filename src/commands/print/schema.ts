/**
 * `sluice schema`: writes the JSON Schemas that editors complete and check configuration files with.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Arguments } from '../../cli.ts'
import { instanceSchema, serverSchema } from '../../config/config.ts'
import { jsonSchema } from '../../config/keys.ts'
import { workerSchema } from '../../config/worker.ts'

/** File name → contents. */
export function schemaFiles(): Record<string, string> {
  const text = (schema: object): string => `${JSON.stringify(schema, null, 2)}\n`
  return {
    'server.schema.json': text(jsonSchema(serverSchema, 'Sluice: conf/server.yaml')),
    'instance.schema.json': text(
      jsonSchema(instanceSchema, 'Sluice: instances/<destination>.yaml'),
    ),
    'worker.schema.json': text(jsonSchema(workerSchema, 'Sluice: conf/worker.yaml')),
  }
}

/** Writes the files and says where. */
export async function schema(args: Arguments): Promise<number> {
  const folder = args.text('out') ?? 'conf'
  mkdirSync(folder, { recursive: true })
  for (const [name, contents] of Object.entries(schemaFiles())) {
    writeFileSync(join(folder, name), contents)
    console.log(join(folder, name))
  }
  return 0
}
