// What a configuration says, as seen from one host: the types of the result. Types only.

import type { ConfigError, ConfigWarning } from './config-error.ts'
import type { OptionsOf } from './effective.ts'
import type { COPRIME, DISK, GLOBAL, NBD, NET, OPTIONS, STARTUP } from './schema.ts'
import type { AddressNode, BodyNode, DeviceNode, HostNode, MetaDiskNode, OptionNode } from './tree.ts'

export type GlobalOptions = OptionsOf<typeof GLOBAL>
/** `fencing` is the resource's, wherever it was set: here (DRBD 9), or the strictest one of the local volumes (8.4). */
export type NetOptions = OptionsOf<typeof NET>
export type DiskOptions = OptionsOf<typeof DISK>
export type ResourceOptions = OptionsOf<typeof OPTIONS>
export type StartupOptions = OptionsOf<typeof STARTUP>

export type NbdListen =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }

export type NbdOptions = OptionsOf<typeof NBD> & { readonly listen: readonly NbdListen[] }
export type CoprimeOptions = OptionsOf<typeof COPRIME> & { readonly nbd: NbdOptions }

export interface Configuration {
  /** Of the main file. */
  readonly path: string
  /** Every file that was read. */
  readonly files: readonly string[]
  readonly hostName: string
  readonly global: GlobalOptions
  /** In the order of the files; also those that are not for this host. */
  readonly resources: ReadonlyMap<string, Resource>
  readonly warnings: readonly ConfigWarning[]
  /** For `dump`. */
  readonly source: { readonly global: readonly OptionNode[]; readonly common: BodyNode | undefined }
}

export interface Resource {
  readonly name: string
  readonly definedAt: { readonly file: string; readonly line: number }
  readonly net: NetOptions
  readonly options: ResourceOptions
  /** Command lines by DRBD's names; `outdate-peer` is under `fence-peer`. */
  readonly handlers: ReadonlyMap<string, string>
  readonly startup: StartupOptions
  /** undefined: no section of the resource is for this host; drbdadm ignores such a resource. */
  readonly local: HostSection | undefined
  /** undefined: not for this host, no other host, or several (then `unsupported` says so). */
  readonly peer: HostSection | undefined
  readonly coprime: CoprimeOptions
  /** Why this program cannot run the resource, although it is correct for DRBD. Thrown by `usableResource`. */
  readonly unsupported: ConfigError | undefined
  /** For `dump`. */
  readonly source: ResourceSource
}

export interface HostSection {
  /** For `floating`: the address as drbdadm prints it. */
  readonly hostName: string
  readonly address: { readonly family: 'ipv4' | 'ipv6'; readonly host: string; readonly port: number }
  /** Ascending by number. */
  readonly volumes: readonly Volume[]
}

export interface Volume {
  readonly number: number
  /** Path of DRBD's device node; here only a name. */
  readonly device: string
  readonly minor: number
  /** Path of the backing device; `none` if there is none, in which case `unsupported` is set. */
  readonly disk: string
  readonly metaDisk:
    | { readonly kind: 'internal' }
    | { readonly kind: 'external'; readonly path: string; readonly index: number | 'flexible' }
  readonly diskOptions: DiskOptions
}

/** A resource with what its hosts inherit from it, in the words of the file. */
export interface ResourceSource {
  readonly body: BodyNode
  readonly hosts: readonly SourceHost[]
}

export interface SourceHost {
  readonly node: HostNode
  /** Names for messages and uniqueness: of a stacked section, those of the lower resource's hosts. */
  readonly names: readonly string[]
  readonly address: AddressNode | undefined
  readonly volumes: readonly SourceVolume[]
}

export interface SourceVolume {
  readonly number: number
  readonly implicit: boolean
  readonly device: DeviceNode
  readonly disk: string | undefined
  /** Named at resource level only. */
  readonly diskInherited: boolean
  readonly metaDisk: MetaDiskNode | undefined
  /** Written for this volume of this host. */
  readonly hostDiskOptions: readonly OptionNode[]
  /** Written for this volume at resource level: ranks below the resource's own and common's `disk { }`. */
  readonly resourceDiskOptions: readonly OptionNode[]
}
