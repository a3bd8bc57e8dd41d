// The syntax tree of a configuration. Types only. The parser has already looked up every option and typed its value; what
// is left open is everything that needs more than one statement: inheritance, hosts, uniqueness over files.

import type { Position } from './config-error.ts'
import type { OptionSpec, OptionValue } from './option-spec.ts'

export interface Name {
  readonly text: string
  readonly position: Position
}

/** Which table of the schema an option belongs to, whatever section it was written in. */
export type OptionTarget =
  | 'global'
  | 'startup'
  | 'options'
  | 'net'
  | 'disk'
  | 'handlers'
  | 'proxy'
  | 'coprime'
  | 'nbd'
  | 'obsolete'

export interface OptionNode {
  readonly target: OptionTarget
  /** Key in the table. */
  readonly key: string
  readonly spec: OptionSpec
  readonly value: OptionValue
  /** The value as the file spells it, without quotes. */
  readonly spelling: string
  readonly position: Position
}

export type AddressFamily = 'ipv4' | 'ipv6' | 'ssocks' | 'sdp' | 'sci'

export interface AddressNode {
  readonly family: AddressFamily
  readonly host: string
  readonly port: number
  readonly position: Position
}

export interface ListenNode {
  readonly listen:
    | { readonly kind: 'unix'; readonly path: string }
    | { readonly kind: 'tcp'; readonly address: AddressNode }
  readonly position: Position
}

export interface DeviceNode {
  /** undefined: only `minor N` was given. */
  readonly path: string | undefined
  readonly minor: number
  readonly position: Position
}

export interface MetaDiskNode {
  readonly path: string
  /** undefined for `internal`. */
  readonly index: number | 'flexible' | undefined
  readonly position: Position
}

export interface VolumeNode {
  readonly number: number
  /** Made by statements outside of any `volume { }`, which describe volume 0. */
  readonly implicit: boolean
  /** A `volume { }` has been read for it. */
  readonly inSection: boolean
  readonly position: Position
  device: DeviceNode | undefined
  disk: Name | undefined
  metaDisk: MetaDiskNode | undefined
  diskOptions: OptionNode[]
}

export interface ProxyNode {
  readonly names: Name[]
  readonly position: Position
  inside: AddressNode | undefined
  outside: AddressNode | undefined
  readonly options: OptionNode[]
  readonly plugins: string[][]
}

export interface HostNode {
  readonly kind: 'on' | 'floating' | 'stacked'
  /** Host names; for `floating` the address as a word, for `stacked` the lower resource. */
  readonly names: Name[]
  readonly position: Position
  address: AddressNode | undefined
  alternateAddress: AddressNode | undefined
  nodeId: { readonly id: number; readonly position: Position } | undefined
  /** By number. */
  readonly volumes: Map<number, VolumeNode>
  /** `options { }` in a host section: accepted by drbdadm, and without effect there too. */
  readonly options: OptionNode[]
  proxy: ProxyNode | undefined
}

export interface EndpointNode {
  readonly host: Name
  readonly address: AddressNode | undefined
  readonly port: number | undefined
  readonly proxy: ProxyNode | undefined
}

export interface ConnectionNode {
  readonly position: Position
  /** The first one holds `host` statements that stand directly in the connection. */
  readonly paths: EndpointNode[][]
  readonly net: OptionNode[]
  readonly disk: OptionNode[]
  readonly volumes: { readonly number: number; readonly disk: OptionNode[]; readonly position: Position }[]
}

export interface MeshNode {
  readonly position: Position
  readonly hosts: Name[]
  readonly net: OptionNode[]
}

/** What `common { }`, `resource { }` and `skip coprime { NAME { } }` have of our own options. */
export interface CoprimeNode {
  readonly options: OptionNode[]
  readonly listens: ListenNode[]
}

/** `common { }` or `resource NAME { }`. Lists of options are in the order of the file, over all sections they came from. */
export interface BodyNode extends CoprimeNode {
  readonly name: Name
  /** The opening brace: the line that drbdadm names. */
  readonly definedAt: Position
  readonly common: boolean
  readonly net: OptionNode[]
  readonly disk: OptionNode[]
  readonly resourceOptions: OptionNode[]
  readonly startup: OptionNode[]
  readonly handlers: OptionNode[]
  readonly proxy: OptionNode[]
  readonly plugins: string[][]
  /** By number. */
  readonly volumes: Map<number, VolumeNode>
  readonly hosts: HostNode[]
  readonly connections: ConnectionNode[]
  readonly meshes: MeshNode[]
  readonly ignoreOn: Name[]
  /** Replaces `common` for this resource (template-file). */
  template: { readonly path: string; readonly body: BodyNode } | undefined
}

export interface GlobalNode {
  readonly position: Position
  readonly options: OptionNode[]
}

/** `skip coprime { }`: for one resource, or for all where `resource` is undefined. */
export interface SkippedCoprimeNode extends CoprimeNode {
  readonly resource: Name | undefined
  readonly position: Position
}

export interface ConfigTree {
  global: GlobalNode | undefined
  common: BodyNode | undefined
  readonly resources: BodyNode[]
  readonly skipped: SkippedCoprimeNode[]
}
