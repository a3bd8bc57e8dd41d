// `coprime dump [all|RES...]`: the configuration as it is understood; it parses again (config-and-tools.md 3.8).

import { loadConfigurationFor } from './configured-volumes.ts'
import { type Context, EXIT_OK, nodeName } from './context.ts'

export async function runDump(context: Context, names: readonly string[]): Promise<number> {
  const { dumpConfiguration, dumpResource, formatWarning, usableResource } = await import('../config/index.ts')
  const configuration = await loadConfigurationFor(context.options, nodeName(context.options))
  for (const warning of configuration.warnings) context.printError(formatWarning(warning))
  const wanted = names.filter((name) => name !== 'all')
  const text =
    wanted.length === 0
      ? dumpConfiguration(configuration)
      : wanted.map((name) => dumpResource(configuration, usableResource(configuration, name))).join('\n')
  if (context.json) context.print(JSON.stringify({ files: configuration.files, text }))
  else context.print(text.trimEnd())
  return EXIT_OK
}
