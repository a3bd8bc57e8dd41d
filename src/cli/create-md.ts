// `coprime create-md [--force] OBJECT...`: fresh metadata on the devices of this host, without a daemon.

import { createInterface } from 'node:readline/promises'

import { configuredVolumes } from './configured-volumes.ts'
import { type Context, EXIT_OK, nodeName } from './context.ts'

export async function runCreateMd(
  context: Context,
  objects: readonly string[],
  options: { readonly force?: boolean },
): Promise<number> {
  const { createMetadataOffline } = await import('../daemon/offline-metadata.ts')
  const volumes = await configuredVolumes(context.options, nodeName(context.options), objects)
  const created: string[] = []
  for (const { object, volume } of volumes) {
    await createMetadataOffline({
      volume,
      force: options.force ?? false,
      confirm,
      print: context.json ? () => {} : context.print,
    })
    created.push(object)
  }
  if (context.json) context.print(JSON.stringify({ created }))
  return EXIT_OK
}

/** Only a person can agree; without a terminal it takes --force. */
async function confirm(found: string): Promise<boolean> {
  if (!process.stdin.isTTY) return false
  const dialogue = createInterface({ input: process.stdin, output: process.stderr })
  try {
    const answer = await dialogue.question(
      `${found}.\nDo you really want to overwrite it? [need to type 'yes' to confirm] `,
    )
    return answer.trim() === 'yes'
  } finally {
    dialogue.close()
  }
}
