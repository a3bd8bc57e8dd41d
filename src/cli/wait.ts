// `wait-connect` and `wait-sync`: the daemon tells of changes, nothing is polled (config-and-tools.md 2.3).

import type { ResourceReport } from '../control/api.ts'
import { isConnected } from '../control/states.ts'
import { type Context, EXIT_CONFIG, EXIT_OK, EXIT_WAIT_TIMEOUT } from './context.ts'
import { type Target, targetsOf } from './objects.ts'

export interface WaitOptions {
  /** Seconds, 0 for ever. */
  readonly wfcTimeout?: string
  readonly waitAfterSb?: boolean
}

export async function runWait(
  context: Context,
  what: 'connect' | 'sync',
  objects: readonly string[],
  options: WaitOptions,
): Promise<number> {
  const { resources } = await context.client.status()
  const targets = targetsOf(objects, resources)
  for (const { resource, object } of targets) {
    if (resources.some(({ name, configured }) => name === resource && configured)) continue
    context.printError(`${object}: Failure: (158) Unknown resource`)
    return EXIT_CONFIG
  }
  const isDone = what === 'connect' ? isConnectDone : isSyncDone
  const reached = await context.client.waitFor(
    (reports) => targets.every((target) => isReached(target, reports.get(target.resource), isDone, options)),
    Number(options.wfcTimeout ?? 0) * 1000,
  )
  if (context.json) context.print(JSON.stringify({ reached }))
  if (reached) return EXIT_OK
  context.printError(`wait-${what}: not within ${options.wfcTimeout} seconds`)
  return EXIT_WAIT_TIMEOUT
}

function isReached(
  target: Target,
  resource: ResourceReport | undefined,
  isDone: (connection: string) => boolean,
  options: WaitOptions,
): boolean {
  if (resource === undefined || !resource.configured) return true // taken down meanwhile: there is nothing to wait for
  if (resource.connection === 'StandAlone') return options.waitAfterSb !== true
  const volumes = resource.volumes.filter(({ volume }) => target.volume === undefined || volume === target.volume)
  return volumes.every(({ connection }) => isDone(connection))
}

const isConnectDone = (connection: string): boolean => isConnected(connection)
const isSyncDone = (connection: string): boolean => connection === 'Connected'
