// The tree -> one typed value for each resource, as seen from one host.

import { normalizedAddress } from './address.ts'
import { ConfigError } from './config-error.ts'
import type {
  Configuration,
  CoprimeOptions,
  DiskOptions,
  HostSection,
  NbdListen,
  NetOptions,
  Resource,
  ResourceSource,
  SourceHost,
  SourceVolume,
  StartupOptions,
  Volume,
} from './configuration.ts'
import { choose, effectiveOptions, first, type Level, last, warnOfTwice } from './effective.ts'
import {
  addressTowards,
  claimUniqueThings,
  devicePath,
  localHost,
  pairsOf,
  proxyOf,
  sourceOf,
  type Viewpoint,
} from './hosts.ts'
import { didYouMean } from './nearest-word.ts'
import type { Notes } from './notes.ts'
import { COPRIME, DISK, GLOBAL, HANDLERS, NBD, NET, OPTIONS, STARTUP } from './schema.ts'
import type { AddressNode, BodyNode, ConfigTree, ConnectionNode, CoprimeNode, MeshNode, OptionNode } from './tree.ts'
import { unsupportedReason } from './unsupported.ts'

export type Resolved = Omit<Configuration, 'path' | 'files'>

export function resolveTree(tree: ConfigTree, view: Viewpoint, notes: Notes): Resolved {
  const common = tree.common === undefined ? undefined : withoutRepetition(tree.common)
  const bodies = new Map(tree.resources.map((body) => [body.name.text, body]))
  const skipped = skippedByResource(tree, bodies)
  const resources = new Map<string, Resource>()
  for (const body of tree.resources) {
    const source = sourceOf(body, bodies)
    claimUniqueThings(source, notes)
    const context = { source, common: body.template?.body ?? common, view, notes, skipped }
    resources.set(body.name.text, resolveResource(context))
  }
  for (const resource of resources.values()) warnOfUnknownNames(resource, resources, notes)
  const global = tree.global?.options ?? []
  return {
    hostName: view.hostName,
    global: effectiveOptions(GLOBAL, choose([last(global)])),
    resources,
    warnings: notes.warnings,
    source: { global, common: tree.common },
  }
}

/** Every resource inherits from `common`: what is there twice is settled once. */
function withoutRepetition(common: BodyNode): BodyNode {
  const settled = (options: readonly OptionNode[]): OptionNode[] => [...choose([first(options)]).values()]
  const { net, disk, resourceOptions, startup, handlers: commands } = common
  return {
    ...common,
    net: settled(net),
    disk: settled(disk),
    resourceOptions: settled(resourceOptions),
    startup: settled(startup),
    handlers: settled(commands),
  }
}

// ---- one resource ---------------------------------------------------------------------------------------------------

interface Context {
  readonly source: ResourceSource
  /** `common { }`, or the template that stands for it. */
  readonly common: BodyNode | undefined
  readonly view: Viewpoint
  readonly notes: Notes
  readonly skipped: SkippedCoprime
}

/** This host and its peer, as indices of the resource's hosts. */
interface Ends {
  readonly local: number | undefined
  readonly peer: number | undefined
  readonly peers: number
  readonly connection: ConnectionNode | undefined
  readonly mesh: MeshNode | undefined
}

function resolveResource(context: Context): Resource {
  const { source, common, notes } = context
  const { body } = source
  const ends = endsOf(context)
  for (const options of [body.net, body.resourceOptions, body.startup]) warnOfTwice(last(options), notes)
  for (const options of [body.disk, body.handlers]) warnOfTwice(first(options), notes)
  const disk = diskBase(context, ends.connection)
  const sections = source.hosts.map((host) => hostSection(host, ends, context.view, disk))
  const local = ends.local === undefined ? undefined : sections[ends.local]
  const { file, line } = body.definedAt
  const resource = {
    name: body.name.text,
    definedAt: { file, line },
    net: netOptions(context, ends, local),
    options: effectiveOptions(OPTIONS, choose([last(body.resourceOptions), first(common?.resourceOptions ?? [])])),
    handlers: handlers(body, common),
    startup: startupOptions(body, common, notes),
    local,
    peer: peerSection(source, sections, ends),
    coprime: coprimeOptions(context),
    source,
  }
  return { ...resource, unsupported: unsupportedReason(source, ends) }
}

function endsOf({ source, view, notes }: Context): Ends {
  const { body, hosts } = source
  const local = localHost(source, view, notes)
  if (local === undefined) return { local, peer: undefined, peers: 0, connection: undefined, mesh: undefined }
  const pairs = pairsOf(body, hosts, local)
  const peers = new Set(pairs.map((pair) => pair.peer))
  const pair = pairs[0]
  if (peers.size !== 1 || pair === undefined) {
    return { local, peer: undefined, peers: peers.size, connection: undefined, mesh: undefined }
  }
  const paths = pair.connection?.paths.length ?? 1
  if (paths > 1) {
    const message = `only the first of ${paths} paths is used: there is one link.`
    notes.warnOnce('ignored-section', 'path', pair.connection?.position ?? body.name.position, message)
  }
  return { local, peers: 1, ...pair }
}

/** Behind a DRBD proxy the peer is met at the inside of the own host's one. */
function peerSection({ hosts }: ResourceSource, sections: readonly HostSection[], ends: Ends): HostSection | undefined {
  const peer = ends.peer === undefined ? undefined : sections[ends.peer]
  const own = ends.local === undefined ? undefined : hosts[ends.local]
  if (peer === undefined || own === undefined) return peer
  const inside = proxyOf(own.node, ends.connection)?.inside
  return inside === undefined ? peer : { ...peer, address: usableAddress(inside) }
}

function hostSection(host: SourceHost, ends: Ends, view: Viewpoint, disk: DiskBase): HostSection {
  const { node } = host
  const named = node.names.find((name) => name.text === view.hostName) ?? node.names[0]
  return {
    hostName: named?.text ?? '',
    address: usableAddress(addressTowards(node, ends.connection)),
    volumes: host.volumes.map((volume) => resolveVolume(host, volume, disk)),
  }
}

/** Without an address the host is part of no connection with this one. */
function usableAddress(address: AddressNode | undefined): HostSection['address'] {
  const family = address?.family === 'ipv6' ? 'ipv6' : 'ipv4'
  const host = address?.host ?? '0.0.0.0'
  return { family, host: normalizedAddress(family, host) ?? host, port: address?.port ?? 0 }
}

function resolveVolume(host: SourceHost, volume: SourceVolume, disk: DiskBase): Volume {
  const { number, device, metaDisk } = volume
  const isExternal = metaDisk?.index !== undefined
  return {
    number,
    device: device.path === undefined ? `/dev/drbd${device.minor}` : devicePath(device.path),
    minor: device.minor,
    disk: volume.disk ?? (host.node.kind === 'stacked' ? 'stacked' : 'none'),
    metaDisk: isExternal ? { kind: 'external', path: metaDisk.path, index: metaDisk.index } : { kind: 'internal' },
    diskOptions: diskOptions(volume, disk),
  }
}

// ---- options --------------------------------------------------------------------------------------------------------

/** What all volumes of a resource share; settled once, as there may be many of them. */
interface DiskBase {
  readonly pair: readonly OptionNode[]
  readonly pairByVolume: ReadonlyMap<number, OptionNode[]>
  readonly resource: readonly OptionNode[]
  readonly common: readonly OptionNode[]
}

function diskBase({ source, common }: Context, connection: ConnectionNode | undefined): DiskBase {
  const pairByVolume = new Map<number, OptionNode[]>()
  for (const { number, disk } of connection?.volumes ?? []) {
    pairByVolume.set(number, [...(pairByVolume.get(number) ?? []), ...disk])
  }
  const pair = [...choose([last(connection?.disk ?? [])]).values()]
  const resource = [...choose([first(source.body.disk)]).values()]
  return { pair, pairByVolume, resource, common: common?.disk ?? [] }
}

/** That a `volume` at resource level ranks below `common` is a quirk of 8.4. */
function diskOptions(volume: SourceVolume, base: DiskBase): DiskOptions {
  const ofPair: Level[] = [last(base.pairByVolume.get(volume.number) ?? []), last(base.pair)]
  const own = last(volume.hostDiskOptions)
  const rest = [first(base.resource), first(base.common), first(volume.resourceDiskOptions)]
  return effectiveOptions(DISK, choose([...ofPair, own, ...rest]))
}

const FENCING_STRICTNESS = ['dont-care', 'resource-only', 'resource-and-stonith'] as const

function netOptions({ source, common, view }: Context, ends: Ends, local: HostSection | undefined): NetOptions {
  const ofPair = ends.connection?.net ?? ends.mesh?.net ?? []
  const chosen = choose([last(ofPair), last(source.body.net), first(common?.net ?? [])])
  const replaced = new Map<string, string>()
  const asb = chosen.get('afterSb0pri')
  const prefix = NET.afterSb0pri.prefix
  if (typeof asb?.value === 'string' && asb.value.startsWith(prefix)) {
    // Anybody else than this host is the peer, even a name that no section has: so does drbdadm 8.4.
    const isLocal = asb.value.slice(prefix.length) === view.hostName
    replaced.set('afterSb0pri', isLocal ? 'discard-local' : 'discard-remote')
  }
  if (!chosen.has('fencing') && local !== undefined) {
    const strictness = local.volumes.map(({ diskOptions: disk }) => FENCING_STRICTNESS.indexOf(disk.fencing))
    replaced.set('fencing', FENCING_STRICTNESS[strictness.reduce((a, b) => Math.max(a, b), 0)] ?? 'dont-care')
  }
  return effectiveOptions(NET, chosen, replaced)
}

/** Of several statements about one handler the first counts: drbdadm looks it up from the front. */
function handlers(body: BodyNode, common: BodyNode | undefined): Map<string, string> {
  const chosen = choose([first(body.handlers), first(common?.handlers ?? [])])
  const byName = new Map<string, string>()
  for (const [key, spec] of Object.entries(HANDLERS)) {
    const handler = chosen.get(key)
    if (handler !== undefined) byName.set(spec.name, String(handler.value))
  }
  return byName
}

/** outdated <= degr <= wfc, where 0 is for ever; what is longer is cut, with a warning if somebody asked for it. */
function startupOptions(body: BodyNode, common: BodyNode | undefined, notes: Notes): StartupOptions {
  const chosen = choose([last(body.startup), first(common?.startup ?? [])])
  const wanted = effectiveOptions(STARTUP, chosen)
  const replaced = new Map<string, number>()
  const cut = (key: 'degrWfcTimeoutSeconds' | 'outdatedWfcTimeoutSeconds', longest: number, than: string): number => {
    if (longest === 0 || (wanted[key] !== 0 && wanted[key] <= longest)) return wanted[key]
    replaced.set(key, longest)
    const setting = wanted.explicit.get(key)
    const { name } = STARTUP[key]
    if (setting !== undefined) notes.warn('clamped', setting.position, `${name} has to be at most ${than} (${longest})`)
    return longest
  }
  const degraded = cut('degrWfcTimeoutSeconds', wanted.wfcTimeoutSeconds, 'wfc-timeout')
  cut('outdatedWfcTimeoutSeconds', degraded, 'degr-wfc-timeout')
  return effectiveOptions(STARTUP, chosen, replaced)
}

// ---- our own --------------------------------------------------------------------------------------------------------

interface SkippedCoprime {
  readonly common: CoprimeNode
  readonly byResource: ReadonlyMap<string, CoprimeNode>
}

/** What stands in `skip coprime { }`, over all such blocks. */
function skippedByResource(tree: ConfigTree, bodies: ReadonlyMap<string, BodyNode>): SkippedCoprime {
  const common: CoprimeNode = { options: [], listens: [] }
  const byResource = new Map<string, CoprimeNode>()
  for (const { resource, options, listens } of tree.skipped) {
    let node = common
    if (resource !== undefined) {
      if (!bodies.has(resource.text)) {
        const problem = `skip coprime: resource '${resource.text}' is not defined.`
        const hint = didYouMean(resource.text, bodies.keys())
        throw new ConfigError({ code: 'E_CONFIG_MISSING', position: resource.position, problem, hint })
      }
      node = byResource.get(resource.text) ?? { options: [], listens: [] }
      byResource.set(resource.text, node)
    }
    node.options.push(...options)
    node.listens.push(...listens)
  }
  return { common, byResource }
}

/** The skip block of the resource, the resource itself, the skip block's common part, common. */
export function coprimeLevels(body: BodyNode, common: BodyNode | undefined, skipped: SkippedCoprime): CoprimeNode[] {
  const nodes = [skipped.byResource.get(body.name.text), body, skipped.common, common]
  return nodes.filter((node) => node !== undefined)
}

function coprimeOptions({ source, common, skipped }: Context): CoprimeOptions {
  const { body, hosts } = source
  const nodes = coprimeLevels(body, common, skipped)
  const chosenOf = (target: OptionNode['target']): Map<string, OptionNode> =>
    choose(nodes.map(({ options }) => last(options.filter((option) => option.target === target))))
  const chosen = chosenOf('coprime')
  const coordinator = chosen.get('coordinator')
  const names = hosts.flatMap((host) => host.names)
  if (coordinator !== undefined && coordinator.value !== '' && !names.includes(String(coordinator.value))) {
    const problem = `in resource ${body.name.text}: coordinator '${coordinator.spelling}' is none of its hosts.`
    const hint = didYouMean(coordinator.spelling, names)
    throw new ConfigError({ code: 'E_CONFIG_MISSING', position: coordinator.position, problem, hint })
  }
  const nbd = chosenOf('nbd')
  const name = nbd.get('exportName')
  const exportName = name === undefined || name.value === '' ? body.name.text : name.value
  const listen = (nodes.find(({ listens }) => listens.length > 0)?.listens ?? []).map(({ listen }): NbdListen => {
    return listen.kind === 'unix' ? listen : { kind: 'tcp', host: listen.address.host, port: listen.address.port }
  })
  const nbdOptions = effectiveOptions(NBD, nbd, new Map([['exportName', exportName]]))
  return { ...effectiveOptions(COPRIME, chosen), nbd: { ...nbdOptions, listen } }
}

// ---- names that nothing has -----------------------------------------------------------------------------------------

function warnOfUnknownNames(resource: Resource, resources: ReadonlyMap<string, Resource>, notes: Notes): void {
  for (const { diskOptions: disk, number } of resource.local?.volumes ?? []) {
    const setting = disk.explicit.get('resyncAfter')
    if (setting === undefined || disk.resyncAfter === '') continue
    const [name = '', volume] = disk.resyncAfter.split('/')
    const found = resources.get(name)
    const volumes = found?.source.hosts[0]?.volumes.map((known) => String(known.number)) ?? []
    if (found !== undefined && (volume === undefined || volumes.includes(volume))) continue
    const message = `in resource ${resource.name}: resource '${disk.resyncAfter}' mentioned in 'resync-after' option is not known.`
    notes.warnOnce('unknown-name', `${resource.name}/${number}`, setting.position, message)
  }
  const { becomePrimaryOn: promoted, explicit } = resource.startup
  const setting = explicit.get('becomePrimaryOn')
  if (setting === undefined) return
  const names = new Set(resource.source.hosts.flatMap((host) => host.names))
  for (const name of promoted) {
    if (name === 'both' || names.has(name)) continue
    const message = `in resource ${resource.name}: become-primary-on contains '${name}', which is not named with the 'on' sections.`
    notes.warn('unknown-name', setting.position, message)
  }
}
