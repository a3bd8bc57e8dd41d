// `coprime daemon`: runs the resources of this host until it is told to end. One line on standard output says that it can be
// reached; everything else goes to the log.

import { type Context, nodeName } from './context.ts'

export interface DaemonCommandOptions {
  readonly dashboard?: string
  readonly logLevel: string
  readonly logFile?: string
  readonly up?: boolean
  readonly labLink?: boolean
  readonly untilStdinEnds?: boolean
}

export async function runDaemonCommand(context: Context, options: DaemonCommandOptions): Promise<number> {
  const { runDaemon } = await import('../daemon/main.ts')
  const { defaultConfigFile } = await import('../daemon/default-config.ts')
  const { configFile, control, runtimeDir } = context.options
  return runDaemon({
    config: configFile === '-' ? 'STDIN' : (configFile ?? defaultConfigFile()),
    node: nodeName(context.options),
    control,
    runtimeDir,
    dashboard: options.dashboard,
    logLevel: options.logLevel,
    logFile: options.logFile,
    up: options.up ?? false,
    labLink: options.labLink ?? false,
    untilStdinEnds: options.untilStdinEnds ?? false,
    onReady: (ready) => {
      if (context.json) context.print(JSON.stringify(ready))
      else
        context.print(
          `coprime daemon for host ${ready.host}: ${ready.resources.join(', ')}; control socket ${ready.control}`,
        )
    },
  })
}
