// `dstate` while no daemon runs: the word that the metadata stands for.

import { configuredVolumes } from './configured-volumes.ts'
import { type Context, EXIT_OK, nodeName } from './context.ts'

export async function runOfflineDstate(context: Context, objects: readonly string[]): Promise<number> {
  const { readMetadata } = await import('../daemon/offline-metadata.ts')
  const { diskStateFromFlags } = await import('../meta/superblock.ts')
  const volumes = await configuredVolumes(context.options, nodeName(context.options), objects)
  const found = volumes.map(({ object, volume }) => ({
    object,
    value: diskStateFromFlags(readMetadata(volume).superblock.flags),
  }))
  if (context.json) context.print(JSON.stringify(found))
  else for (const { value } of found) context.print(value)
  return EXIT_OK
}
