// `role`, `cstate`, `dstate`: one word pair per resource or volume, in 8.4's form (config-and-tools.md 3.1). Without a daemon
// `dstate` reads the metadata, as drbdadm does through drbdmeta.

import type { ResourceReport } from '../control/api.ts'
import { ControlError } from '../control/errors.ts'
import { type Context, EXIT_CONFIG, EXIT_OK } from './context.ts'
import { type Target, targetsOf } from './objects.ts'

export type StateWord = 'role' | 'cstate' | 'dstate'

export async function runStateWord(context: Context, word: StateWord, objects: readonly string[]): Promise<number> {
  let resources: readonly ResourceReport[]
  try {
    ;({ resources } = await context.client.status())
  } catch (error) {
    const offline = word === 'dstate' && error instanceof ControlError && error.code === 'E_CONTROL_UNREACHABLE'
    if (!offline) throw error
    const { runOfflineDstate } = await import('./offline-dstate.ts')
    return runOfflineDstate(context, objects)
  }
  let exitCode = EXIT_OK
  const found: { readonly object: string; readonly value: string }[] = []
  for (const target of targetsOf(objects, resources)) {
    const resource = resources.find(({ name }) => name === target.resource)
    if (resource === undefined) {
      context.printError(`${target.object}: Failure: (158) Unknown resource`)
      exitCode = EXIT_CONFIG
    } else for (const value of valuesOf(word, resource, target)) found.push({ object: target.object, value })
  }
  if (context.json) context.print(JSON.stringify(found))
  else for (const { value } of found) context.print(value)
  return exitCode
}

function valuesOf(word: StateWord, resource: ResourceReport, target: Target): string[] {
  const volumes = resource.volumes.filter(({ volume }) => target.volume === undefined || volume === target.volume)
  const isUnconfigured =
    resource.connection === 'StandAlone' &&
    resource.role === 'Secondary' &&
    volumes.every(({ disk }) => disk === 'Diskless')
  if (isUnconfigured) return word === 'dstate' ? volumes.map(() => 'Unconfigured') : ['Unconfigured']
  switch (word) {
    case 'role':
      return [`${resource.role}/${resource.peerRole}`]
    case 'cstate':
      return volumes.map(({ connection }) => connection)
    case 'dstate':
      return volumes.map(({ disk, peerDisk }) => `${disk}/${peerDisk}`)
  }
}
