// The hosts of a resource: what they inherit from it, which of them this host is, who the peer is, at which addresses; and
// all that drbdadm checks about them (config-and-tools.md 1.3 and 1.6).

import { isLoopback } from './address.ts'
import { ConfigError, type Position } from './config-error.ts'
import type { ResourceSource, SourceHost, SourceVolume } from './configuration.ts'
import { emptyVolume } from './host-parser.ts'
import { didYouMean } from './nearest-word.ts'
import type { Notes } from './notes.ts'
import type {
  AddressNode,
  BodyNode,
  ConnectionNode,
  DeviceNode,
  EndpointNode,
  HostNode,
  MeshNode,
  Name,
  ProxyNode,
  VolumeNode,
} from './tree.ts'

/** More than any cluster has; bounds what a file can make us build. */
const HOSTS_MAX = 128
const HOST_VOLUMES_MAX = 65_536

const missing = (position: Position, problem: string, hint = ''): ConfigError =>
  new ConfigError({ code: 'E_CONFIG_MISSING', position, problem, hint })

const labelOf = (host: HostNode): string =>
  host.kind === 'stacked' ? `stacked-on-top-of ${firstName(host)}` : host.names.map((name) => name.text).join(' ')
const firstName = (host: HostNode): string => (host.names[0] as Name).text

// ---- inheritance ----------------------------------------------------------------------------------------------------

export function sourceOf(body: BodyNode, bodies: ReadonlyMap<string, BodyNode>): ResourceSource {
  const own = body.hosts.reduce((sum, host) => sum + host.volumes.size, 0)
  const count = own + body.hosts.length * body.volumes.size
  if (body.hosts.length > HOSTS_MAX || count > HOST_VOLUMES_MAX) {
    const problem = `resource ${body.name.text} has too many hosts and volumes`
    const hint = `At most ${HOSTS_MAX} hosts, and ${HOST_VOLUMES_MAX} volumes over all of them.`
    throw new ConfigError({ code: 'E_CONFIG_LIMIT', position: body.name.position, problem, hint })
  }
  const hosts = body.hosts.map((node) => sourceHost(body, node, bodies))
  checkVolumesAgree(body, hosts)
  checkNodeIds(body)
  checkAddresses(body, hosts)
  checkProxies(body)
  return { body, hosts }
}

function sourceHost(body: BodyNode, node: HostNode, bodies: ReadonlyMap<string, BodyNode>): SourceHost {
  const volumes = inheritedVolumes(body, node).map((pair) => sourceVolume(body, node, pair))
  return { node, names: namesOf(body, node, bodies), address: node.address, volumes }
}

function namesOf(body: BodyNode, node: HostNode, bodies: ReadonlyMap<string, BodyNode>): string[] {
  if (node.kind !== 'stacked') return node.names.map((name) => name.text)
  const lower = node.names[0] as Name
  const found = bodies.get(lower.text)
  if (found !== undefined) return found.hosts.flatMap((host) => host.names.map((name) => name.text))
  const problem = `in resource ${body.name.text}, referenced resource '${lower.text}' not defined.`
  throw missing(body.name.position, problem, didYouMean(lower.text, bodies.keys()))
}

interface VolumePair {
  readonly number: number
  readonly own: VolumeNode | undefined
  readonly inherited: VolumeNode | undefined
}

function inheritedVolumes(body: BodyNode, node: HostNode): VolumePair[] {
  const pairs = new Map<number, VolumePair>()
  for (const own of node.volumes.values()) pairs.set(own.number, { number: own.number, own, inherited: undefined })
  for (const inherited of body.volumes.values()) {
    pairs.set(inherited.number, { number: inherited.number, own: pairs.get(inherited.number)?.own, inherited })
  }
  return [...pairs.values()].sort((a, b) => a.number - b.number)
}

function sourceVolume(body: BodyNode, host: HostNode, { number, own, inherited }: VolumePair): SourceVolume {
  const nothing = emptyVolume(number, true, host.position)
  const volume = own ?? nothing
  const base = inherited ?? nothing
  const device = inheritedDevice(volume.device, base.device)
  const disk = (volume.disk ?? base.disk)?.text
  const metaDisk = volume.metaDisk ?? base.metaDisk
  const where = `in resource ${body.name.text}, on ${labelOf(host)} { ... }: `
  if (device === undefined)
    throw missing(host.position, `${where}'device' keyword missing.`, 'Add for example: device minor 1;')
  // Nothing at all about a disk is a diskless volume for DRBD 9.
  if (disk === undefined && metaDisk !== undefined && host.kind !== 'stacked') {
    throw missing(host.position, `${where}'disk' keyword missing.`, 'Add for example: disk /dev/vg/name;')
  }
  const implicit = own?.implicit ?? base.implicit
  const diskInherited = volume.disk === undefined
  const options = { hostDiskOptions: volume.diskOptions, resourceDiskOptions: base.diskOptions }
  return { number, implicit, device, disk, diskInherited, metaDisk, ...options }
}

/** A host that gives only a minor number keeps the name that the resource gives, unless that name is a number, too. */
function inheritedDevice(own: DeviceNode | undefined, base: DeviceNode | undefined): DeviceNode | undefined {
  if (own === undefined || own.path !== undefined || base?.path === undefined) return own ?? base
  return devicePath(base.path).startsWith('/dev/drbd_') ? { ...own, path: base.path } : own
}

/** `/dev/` may be left out. */
export const devicePath = (path: string): string => (path.startsWith('/dev/') ? path : `/dev/${path}`)

// ---- checks within a resource ---------------------------------------------------------------------------------------

function checkVolumesAgree(body: BodyNode, hosts: readonly SourceHost[]): void {
  const where = `in resource ${body.name.text}`
  for (const host of hosts) {
    if (host.volumes.length > 1 && host.volumes.some((volume) => volume.implicit)) {
      throw missing(host.node.position, `${where}: you must not mix implicit and explicit volumes`)
    }
  }
  const reference = hosts[0]
  if (reference === undefined) return
  const other = hosts.find((host) => isImplicit(host) !== isImplicit(reference))
  if (other !== undefined) {
    const both = `on ${labelOf(reference.node)} resp. ${labelOf(other.node)}`
    throw missing(other.node.position, `${where}, ${both}: volume 0 must not be implicit on one but not the other`)
  }
  const numbers = new Set(reference.volumes.map((volume) => volume.number))
  const on = `${where}, on ${labelOf(reference.node)} { ... }: volume`
  for (const host of hosts.slice(1)) {
    const others = new Set(host.volumes.map((volume) => volume.number))
    const label = labelOf(host.node)
    for (const number of numbers) {
      if (!others.has(number)) throw missing(host.node.position, `${on} ${number} not defined on ${label}`)
    }
    for (const number of others) {
      if (!numbers.has(number)) throw missing(reference.node.position, `${on} ${number} missing (present on ${label})`)
    }
  }
}

const isImplicit = (host: SourceHost): boolean => host.volumes[0]?.implicit === true

/** DRBD 9 numbers two hosts by itself, unless a connection section or one node-id shows that somebody else does. */
function checkNodeIds(body: BodyNode): void {
  const { text: resource } = body.name
  const ids = new Map<number, Position>()
  const mesh = body.meshes.length > 0 && body.hosts.length !== 2
  const needed = isNumbered(body) || body.connections.length > 0 || mesh
  for (const host of body.hosts) {
    const { nodeId } = host
    if (nodeId === undefined) {
      if (!needed) continue
      const problem = `in resource ${resource}, on ${labelOf(host)} { ... }: 'node-id' keyword missing.`
      throw missing(host.position, problem, 'Give every host a node-id, from 0 on.')
    }
    const first = ids.get(nodeId.id)
    if (first !== undefined) {
      const used = `node-id '${resource}:${nodeId.id}'`
      const problem = `conflicting use of ${used} ...\n${first.file}:${first.line}: ${used} first used here.`
      throw new ConfigError({ code: 'E_CONFIG_CONFLICT', position: nodeId.position, problem, hint: '' })
    }
    ids.set(nodeId.id, nodeId.position)
  }
}

const isNumbered = (body: BodyNode): boolean => body.hosts.some((host) => host.nodeId !== undefined)

function checkAddresses(body: BodyNode, hosts: readonly SourceHost[]): void {
  if (body.connections.length === 0 && body.meshes.length === 0) {
    // With node-ids (DRBD 9) a host without an address is just not connected.
    const mayLack = isNumbered(body) && (hosts.length === 1 || hosts.some(({ address }) => address !== undefined))
    for (const { node } of hosts) {
      if (node.address !== undefined || mayLack) continue
      const problem = `in resource ${body.name.text}, on ${labelOf(node)} { ... }: 'address' keyword missing.`
      throw missing(node.position, problem, 'Add for example: address 10.0.0.1:7789;')
    }
  }
  // All hosts have the same volumes: checked before.
  const volumes = new Set(hosts[0]?.volumes.map(({ number }) => number))
  for (const connection of body.connections) checkConnection(body, { hosts, volumes }, connection)
  for (const mesh of body.meshes) checkMesh(body, hosts, mesh)
}

interface Known {
  readonly hosts: readonly SourceHost[]
  readonly volumes: ReadonlySet<number>
}

function checkConnection(body: BodyNode, { hosts, volumes }: Known, connection: ConnectionNode): void {
  for (const endpoint of connection.paths.flat()) {
    const host = hosts.find(({ node }) => hasName(node, endpoint.host.text))
    if (host === undefined && endpoint.address === undefined) {
      const { text } = endpoint.host
      const problem =
        `in resource ${body.name.text} a hostname ("${text}") is given\n` +
        'with a "host" keyword, has no "address" keyword, and no matching\nhost section ("on" keyword)'
      throw missing(
        endpoint.host.position,
        problem,
        didYouMean(
          text,
          hosts.flatMap((known) => known.names),
        ),
      )
    }
    if (host !== undefined) checkEndpointAddress(body, host, endpoint)
  }
  for (const path of connection.paths) checkBothEnds(body, hosts, path)
  const unknown = connection.volumes.find(({ number }) => !volumes.has(number))
  if (unknown === undefined) return
  const reference = `There is a reference to a volume ${unknown.number} that is not known in this resource`
  throw missing(unknown.position, `Resource ${body.name.text}: ${reference}`)
}

function checkBothEnds(body: BodyNode, hosts: readonly SourceHost[], path: readonly EndpointNode[]): void {
  const [here, there] = path.map((end) => {
    const host = hosts.find(({ node }) => hasName(node, end.host.text))
    return host === undefined ? end.address : endpointAddress(host.node, end)
  })
  if (here === undefined || here.host !== there?.host || here.port !== there.port || isLoopback(here.host)) return
  const problem = `in resource ${body.name.text} ${here.family}:${here.host}:${here.port} is used for both endpoints`
  throw new ConfigError({ code: 'E_CONFIG_CONFLICT', position: there.position, problem, hint: '' })
}

function checkEndpointAddress(body: BodyNode, host: SourceHost, endpoint: EndpointNode): void {
  if (endpointAddress(host.node, endpoint) !== undefined) return
  const what = endpoint.port === undefined ? 'address and port' : 'address'
  const problem = `Resource ${body.name.text}, host ${labelOf(host.node)}: cannot determine which ${what} to use`
  throw missing(endpoint.host.position, problem, `Add 'address A:P' here or in the host section.`)
}

function checkMesh(body: BodyNode, hosts: readonly SourceHost[], mesh: MeshNode): void {
  for (const name of mesh.hosts) {
    const host = hosts.find(({ node }) => hasName(node, name.text))
    if (host === undefined) {
      const problem = `in resource ${body.name.text}:\n\tThere is no 'on' section for hostname '${name.text}' named in the connection-mesh`
      throw missing(
        name.position,
        problem,
        didYouMean(
          name.text,
          hosts.flatMap((known) => known.names),
        ),
      )
    }
    if (host.address !== undefined) continue
    const problem = `Resource ${body.name.text}, host ${labelOf(host.node)}: cannot determine which address and port to use`
    throw missing(name.position, problem, 'Add an address to the host section.')
  }
}

function checkProxies(body: BodyNode): void {
  const count = body.hosts.filter((host) => host.proxy !== undefined).length
  if (count === 0 || count === body.hosts.length) return
  const problem = `in resource ${body.name.text}:\n\tEither all 'on' sections must contain a proxy subsection, or none.`
  throw missing(body.name.position, problem)
}

// ---- who is who -----------------------------------------------------------------------------------------------------

const hasName = (host: HostNode, name: string): boolean => host.names.some(({ text }) => text === name)

/** 9's comparison: case does not matter, and a short name stands for the full one. */
function isSameHost(configured: string, hostName: string): boolean {
  const a = configured.toLowerCase()
  const b = hostName.toLowerCase()
  return a === b || a.startsWith(`${b}.`) || b.startsWith(`${a}.`)
}

export interface Viewpoint {
  readonly hostName: string
  readonly localAddresses: ReadonlySet<string>
}

/** Index of the section that is about this host; 8.4's exact comparison goes before 9's. */
export function localHost({ body, hosts }: ResourceSource, view: Viewpoint, notes: Notes): number | undefined {
  if (body.ignoreOn.some((name) => name.text === view.hostName)) return undefined
  const matches = (same: (name: string) => boolean): number[] =>
    hosts.flatMap((host, index) => (host.node.kind !== 'floating' && host.names.some(same) ? [index] : []))
  const floating = hosts.flatMap(({ node, address }, index) =>
    node.kind === 'floating' && address !== undefined && view.localAddresses.has(address.host) ? [index] : [],
  )
  const exact = matches((name) => name === view.hostName)
  const similar = exact.length > 0 ? [] : matches((name) => isSameHost(name, view.hostName))
  if (similar.length > 1 && !isNumbered(body)) {
    // 9 refuses this, to 8.4, which has no node-ids, neither section is about this host.
    const message = `in resource ${body.name.text}: several host sections may mean '${view.hostName}', and none is its exact name.`
    notes.warn('unknown-name', body.name.position, message)
    return undefined
  }
  const found = exact.length > 0 ? exact : [...similar, ...floating]
  if (found.length < 2) return found[0]
  const sections = found.map((index) => `on ${labelOf((hosts[index] as SourceHost).node)} { ... }`).join(' ... ')
  const problem = `in resource ${body.name.text}, ${sections}:\n\tThere are multiple host sections for this node.`
  throw new ConfigError({ code: 'E_CONFIG_CONFLICT', position: body.name.position, problem, hint: '' })
}

/** The connections (and meshes) between two hosts; those of a mesh have no statements of the pair. */
interface Pair {
  readonly peer: number
  readonly connection: ConnectionNode | undefined
  readonly mesh: MeshNode | undefined
}

/** All that this host is connected with. Without any connection section: every other host. */
export function pairsOf(body: BodyNode, hosts: readonly SourceHost[], local: number): Pair[] {
  const indexOf = (name: string): number => hosts.findIndex(({ node }) => hasName(node, name))
  const pairs: Pair[] = []
  for (const connection of body.connections) {
    const ends = (connection.paths[0] as EndpointNode[]).map((endpoint) => indexOf(endpoint.host.text))
    const peer = ends.find((index) => index !== local)
    if (ends.includes(local) && peer !== undefined) pairs.push({ peer, connection, mesh: undefined })
  }
  for (const mesh of body.meshes) {
    const members = mesh.hosts.map((name) => indexOf(name.text))
    if (!members.includes(local)) continue
    for (const peer of members) if (peer !== local) pairs.push({ peer, connection: undefined, mesh })
  }
  if (body.connections.length > 0 || body.meshes.length > 0) return pairs
  return hosts.flatMap((_, peer) => (peer === local ? [] : [{ peer, connection: undefined, mesh: undefined }]))
}

function endpointAddress(host: HostNode, endpoint: EndpointNode | undefined): AddressNode | undefined {
  if (endpoint?.address !== undefined) return endpoint.address
  if (host.address === undefined || endpoint?.port === undefined) return host.address
  return { ...host.address, port: endpoint.port }
}

/** The address of a host towards its peer: that of the first path of their connection, or its own. */
export function addressTowards(host: HostNode, connection: ConnectionNode | undefined): AddressNode | undefined {
  const endpoint = connection?.paths[0]?.find((end) => hasName(host, end.host.text))
  return endpointAddress(host, endpoint)
}

/** DRBD proxy of a host, in its section or in the connection. */
export function proxyOf(host: HostNode, connection: ConnectionNode | undefined): ProxyNode | undefined {
  const endpoint = connection?.paths[0]?.find((end) => hasName(host, end.host.text))
  return endpoint?.proxy ?? host.proxy
}

// ---- checks over all resources --------------------------------------------------------------------------------------

export function claimUniqueThings({ body, hosts }: ResourceSource, notes: Notes): void {
  for (const host of hosts) {
    claimAddresses(body, host, notes)
    for (const name of host.names) for (const volume of host.volumes) claimVolume(name, host, volume, notes)
  }
}

function claimVolume(name: string, { node }: SourceHost, volume: SourceVolume, notes: Notes): void {
  const { device, disk, metaDisk } = volume
  notes.claim('device-minor', `device-minor:${name}:${device.minor}`, device.position)
  if (node.kind === 'stacked') return
  // A quirk of both releases: a disk is missed if it is named in a host section.
  if (disk !== undefined && volume.diskInherited) notes.claim('disk', `disk:${name}:${disk}`, node.position)
  if (disk !== undefined && disk !== 'none') notes.noteDisk(name, disk, node.position)
  if (metaDisk?.index === undefined) return
  notes.claim('meta-disk', `${name}:${metaDisk.path}[${metaDisk.index}]`, metaDisk.position)
}

/** Once for each resource, however many connections start there. A loopback address is another one on every host. */
function claimAddresses(body: BodyNode, host: SourceHost, notes: Notes): void {
  const addresses = new Map<string, Position>()
  const ends = body.connections.flatMap((connection) => connection.paths.flat())
  const used = ends.filter((end) => hasName(host.node, end.host.text)).map((end) => endpointAddress(host.node, end))
  for (const address of [...(used.length > 0 ? used : [host.address]), host.node.alternateAddress]) {
    if (address === undefined) continue
    const key = `${address.host}:${address.port}`
    if (!isLoopback(address.host)) addresses.set(key, address.position)
    else for (const name of host.names) addresses.set(`${name}:${key}`, address.position)
  }
  for (const [key, position] of addresses) notes.claim('IP', key, position)
}
