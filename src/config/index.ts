// The public face of this folder: drbd.conf in, typed configuration out.

import { ConfigError } from './config-error.ts'
import type { Configuration, Resource } from './configuration.ts'
import type { Viewpoint } from './hosts.ts'
import { type ConfigFiles, Loader } from './loader.ts'
import { didYouMean } from './nearest-word.ts'
import { Notes } from './notes.ts'
import { resolveTree } from './resolve.ts'

export { ConfigError, type ConfigErrorCode, type ConfigWarning, formatWarning, type Position } from './config-error.ts'
export type {
  Configuration,
  CoprimeOptions,
  DiskOptions,
  GlobalOptions,
  HostSection,
  NbdListen,
  NbdOptions,
  NetOptions,
  Resource,
  ResourceOptions,
  StartupOptions,
  Volume,
} from './configuration.ts'
export { dumpConfiguration, dumpResource } from './dump.ts'
export type { OptionsOf, Setting } from './effective.ts'
export type { ConfigFiles } from './loader.ts'

export interface LoadOptions {
  /** `uname -n`, or what stands for it. */
  readonly hostName: string
  /** Addresses of interfaces that are up; `floating` sections are recognised by them. */
  readonly localAddresses?: Iterable<string>
}

/** Reads a configuration and all that it includes. Throws ConfigError and nothing else. */
export function loadConfiguration(path: string, files: ConfigFiles, options: LoadOptions): Configuration {
  const notes = new Notes()
  const loader = new Loader(files, notes)
  const view: Viewpoint = { hostName: options.hostName, localAddresses: new Set(options.localAddresses) }
  try {
    loader.loadMain(path)
    const configuration = { path, files: loader.paths, ...resolveTree(loader.tree, view, notes) }
    for (const { unsupported } of configuration.resources.values()) showLine(unsupported, loader)
    return configuration
  } catch (error) {
    if (error instanceof ConfigError) showLine(error, loader)
    throw error
  }
}

function showLine(error: ConfigError | undefined, loader: Loader): void {
  const text = error === undefined ? undefined : loader.textOf(error.file)
  if (error !== undefined && text !== undefined) error.attachText(text)
}

/** The resource of this name, for this host and fit to be run; everything else is an error that says why. */
export function usableResource(configuration: Configuration, name: string): Resource {
  const resource = configuration.resources.get(name)
  if (resource?.local === undefined) {
    const position = { file: configuration.path, line: 1, column: 1 }
    const problem = `'${name}' not defined in your config (for this host).`
    const hint =
      resource === undefined ? didYouMean(name, configuration.resources.keys()) : noSectionHint(configuration, resource)
    throw new ConfigError({ code: 'E_CONFIG_MISSING', position, problem, hint, exitCode: 1 })
  }
  if (resource.unsupported !== undefined) throw resource.unsupported
  return resource
}

function noSectionHint({ hostName }: Configuration, resource: Resource): string {
  const names = resource.source.hosts.flatMap((host) => host.names).join(', ')
  return `This host is '${hostName}'; the resource has sections for: ${names === '' ? 'none' : names}.`
}

/**
 * drbdadm's check that the local addresses are on interfaces of this host: the first that is not, if any.
 * `disable-ip-verification` in `global { }` switches it off.
 */
export function missingLocalAddress(
  configuration: Configuration,
  localAddresses: ReadonlySet<string>,
): ConfigError | undefined {
  if (configuration.global.disableIpVerification) return undefined
  for (const { name, local, source } of configuration.resources.values()) {
    if (local === undefined || localAddresses.has(withoutScope(local.address.host))) continue
    const host = source.hosts.find(({ node }) => node.names.some(({ text }) => text === local.hostName))
    const position = host?.address?.position ?? host?.node.position ?? source.body.name.position
    const problem = `in resource ${name}, on ${local.hostName}:\n\tIP ${local.address.host} not found on this host.`
    const hint = 'Correct the address, bring the interface up, or set disable-ip-verification in global { }.'
    return new ConfigError({ code: 'E_CONFIG_ADDRESS', position, problem, hint })
  }
  return undefined
}

const withoutScope = (host: string): string => host.split('%')[0] as string

/** Name of the NBD export of a volume: that of the resource, with `/VNR` if there are several volumes. */
export function exportName({ coprime, local }: Resource, volume: number): string {
  const base = coprime.nbd.exportName
  return (local?.volumes.length ?? 1) > 1 ? `${base}/${volume}` : base
}
