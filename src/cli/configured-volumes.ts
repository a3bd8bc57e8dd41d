// Objects looked up in the configuration instead of in a daemon: for what works on devices that nobody has attached.

import { hostname } from 'node:os'

import { AppError } from '../base/errors.ts'
import type { Configuration, Resource, Volume } from '../config/index.ts'
import type { GlobalOptions } from './context.ts'

class UnknownVolumeError extends AppError {
  override readonly name = 'UnknownVolumeError'
  readonly code = 'E_UNKNOWN_VOLUME'
  readonly hint = ''
  readonly exitCode = 1

  constructor(object: string, path: string) {
    super(`'${object}' not defined in your config (for this host): ${path}`)
  }
}

export interface ConfiguredVolume {
  /** RESOURCE/VNR, or RESOURCE if it has one volume 0. */
  readonly object: string
  readonly resource: Resource
  readonly volume: Volume
}

export async function loadConfigurationFor(options: GlobalOptions, node: string | undefined): Promise<Configuration> {
  const { loadConfiguration } = await import('../config/index.ts')
  const { nodeConfigFiles, STANDARD_INPUT } = await import('../daemon/config-files.ts')
  const { defaultConfigFile } = await import('../daemon/default-config.ts')
  const path = options.configFile === '-' ? STANDARD_INPUT : (options.configFile ?? defaultConfigFile())
  return loadConfiguration(path, nodeConfigFiles(), { hostName: node ?? hostname() })
}

/** Throws ConfigError for what is not configured for this host. */
export async function configuredVolumes(
  options: GlobalOptions,
  node: string | undefined,
  objects: readonly string[],
): Promise<ConfiguredVolume[]> {
  const { usableResource } = await import('../config/index.ts')
  const configuration = await loadConfigurationFor(options, node)
  const local = [...configuration.resources.values()].filter((resource) => resource.local !== undefined)
  const names = objects.flatMap((object) => (object === 'all' ? local.map(({ name }) => name) : [object]))
  return names.flatMap((name) => {
    const parts = /^(.+)\/([0-9]{1,5})$/.exec(name)
    const known = configuration.resources.has(name)
    const resource = usableResource(configuration, known || parts === null ? name : (parts[1] as string))
    const number = known || parts === null ? undefined : Number(parts[2])
    return volumesOf(configuration, resource, number, name)
  })
}

function volumesOf(
  configuration: Configuration,
  resource: Resource,
  number: number | undefined,
  name: string,
): ConfiguredVolume[] {
  const volumes = resource.local?.volumes ?? []
  const found = volumes.filter((volume) => number === undefined || volume.number === number)
  if (found.length === 0) throw new UnknownVolumeError(name, configuration.path)
  const single = volumes.length === 1 && volumes[0]?.number === 0
  return found.map((volume) => ({
    object: single ? resource.name : `${resource.name}/${volume.number}`,
    resource,
    volume,
  }))
}
