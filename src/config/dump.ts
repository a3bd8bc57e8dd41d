// `drbdadm dump`: the configuration as it is understood, in a form that can be read again (config-and-tools.md 3.8). Hosts
// show what they inherit from their resource, as 8.4 prints it; options stay at the level where they were written, with the
// spelling of the file, and one statement for each. Our own options go into a `skip coprime` block, so that drbdadm can read
// the result as well. Quotes only where needed.

import { printable } from './config-error.ts'
import type { Configuration, Resource, SourceHost, SourceVolume } from './configuration.ts'
import { choose, first, type Level, last } from './effective.ts'
import { devicePath } from './hosts.ts'
import { COPRIME, NBD } from './schema.ts'
import { RESERVED_WORDS } from './token-reader.ts'
import type { AddressNode, BodyNode, ConnectionNode, EndpointNode, HostNode, OptionNode, ProxyNode } from './tree.ts'

const INDENT = '    '
/** Column in which values start, whatever the depth. */
const VALUE_COLUMN = 24

/** Everything: global, common, all resources, our own options. */
export function dumpConfiguration(configuration: Configuration): string {
  const { common, global } = configuration.source
  const lines = [`# ${printable(configuration.path)}`]
  if (global.length > 0) lines.push(...block('global', 0, globalLines(global)), '')
  if (common !== undefined) {
    const sections = bodySections(common, 1)
    if (sections.length > 0) lines.push(...block('common', 0, sections), '')
  }
  for (const resource of configuration.resources.values()) lines.push(...resourceLines(resource, configuration), '')
  lines.push(...coprimeLines([...configuration.resources.values()]))
  return `${lines.join('\n')}\n`
}

export function dumpResource(configuration: Configuration, resource: Resource): string {
  const lines = [...resourceLines(resource, configuration), '', ...coprimeLines([resource])]
  return `${lines.join('\n')}\n`
}

// ---- words ----------------------------------------------------------------------------------------------------------

const BARE_NAME = /^(?=.*[A-Za-z/_-])[A-Za-z0-9/._-]{1,128}$/
const NUMBER = /^[0-9]{1,8}[KMGs]?$/
const BARE_VALUE = /^[A-Za-z0-9/._-]{1,128}$/

const quoted = (text: string): string => `"${text.replace(/["\\]/g, '\\$&')}"`

/** As a name: not what the scanner takes for a number or a keyword. */
function name(text: string): string {
  return BARE_NAME.test(text) && !NUMBER.test(text) && !RESERVED_WORDS.has(text) ? text : quoted(text)
}

/** As a value: numbers stay bare. 8.4 takes neither keywords nor addresses there unless they are quoted. */
const word = (text: string): string => (NUMBER.test(text) ? text : name(text))

function optionValue({ spec, spelling, value }: OptionNode): string {
  switch (spec.kind) {
    case 'names':
      return (value as readonly string[]).map(name).join(' ')
    case 'choice':
      return String(value) // the protocol's letter in capitals
    case 'boolean':
      return spelling
    case 'text':
      return word(spelling)
    default:
      return BARE_VALUE.test(spelling) ? spelling : quoted(spelling)
  }
}

const address = ({ family, host, port }: AddressNode): string =>
  `${family} ${family === 'ipv6' ? `[${host}]` : host}:${port}`

// ---- lines ----------------------------------------------------------------------------------------------------------

function block(title: string, depth: number, inner: readonly string[]): string[] {
  const indent = INDENT.repeat(depth)
  return [`${indent}${title} {`, ...inner, `${indent}}`]
}

function statement(depth: number, keyword: string, value: string): string {
  const indent = INDENT.repeat(depth)
  if (value === '') return `${indent}${keyword};`
  return `${indent}${keyword.padEnd(VALUE_COLUMN - indent.length)} ${value};`
}

function optionLines(levels: readonly Level[], depth: number): string[] {
  return [...choose(levels).values()].map((option) =>
    statement(depth, option.spec.name, option.spec.kind === 'flag' ? '' : optionValue(option).padStart(3)),
  )
}

/** drbdadm does not align these. */
const globalLines = (options: readonly OptionNode[]): string[] =>
  [...choose([last(options)]).values()].map((option) =>
    [`${INDENT}${option.spec.name}`, ...(option.spec.kind === 'flag' ? [] : [optionValue(option)])]
      .join(' ')
      .concat(';'),
  )

function section(title: string, depth: number, inner: readonly string[]): string[] {
  return inner.length === 0 ? [] : block(title, depth, inner)
}

const pluginLines = (plugins: readonly string[][], depth: number): string[] =>
  section(
    'plugin',
    depth,
    plugins.map((words) => `${INDENT.repeat(depth + 1)}${words.map(word).join(' ')};`),
  )

/** The sections of options of a resource or of common; `common` counts the first of two statements, a resource the last. */
function bodySections(body: BodyNode, depth: number): string[] {
  const level = body.common ? first : last
  const list = (options: readonly OptionNode[], of: (options: readonly OptionNode[]) => Level): string[] =>
    optionLines([of(options)], depth + 1)
  return [
    ...section('options', depth, list(body.resourceOptions, level)),
    ...section('net', depth, list(body.net, level)),
    ...section('disk', depth, list(body.disk, first)),
    ...section('startup', depth, list(body.startup, level)),
    ...section('proxy', depth, [...list(body.proxy, level), ...pluginLines(body.plugins, depth + 1)]),
    ...section('handlers', depth, list(body.handlers, first)),
  ]
}

// ---- resources ------------------------------------------------------------------------------------------------------

function resourceLines(resource: Resource, { hostName, source }: Configuration): string[] {
  const { body, hosts } = resource.source
  const shown = printable(name(resource.name))
  const stacked = hosts.some(({ node }) => node.kind === 'stacked') ? 'stacked' : 'not stacked'
  const ignored = resource.local === undefined ? 'ignored' : 'not ignored'
  const { file, line } = resource.definedAt
  // Options of a volume at resource level rank below these; the dump shows them at the host, where they would rank above.
  const inherited = body.template?.body ?? source.common
  const above = new Set(choose([first(body.disk), first(inherited?.disk ?? [])]).keys())
  // `disk { }` beside `disk PATH;` can only be said in an explicit volume, and all hosts must say it alike.
  const isFlat = hosts.every(({ volumes }) =>
    volumes.every((volume) => volume.implicit && diskOptions(volume, above).length === 0),
  )
  const inner = [
    ...(body.template === undefined ? [] : [statement(1, 'template-file', quoted(body.template.path))]),
    ...body.ignoreOn.map((host) => statement(1, 'ignore-on', name(host.text))),
    ...hosts.flatMap((host) => hostLines(host, { isFlat, above })),
    ...body.connections.flatMap(connectionLines),
    ...body.meshes.flatMap((mesh) =>
      meshLines(
        mesh.hosts.map(({ text }) => name(text)),
        mesh.net,
      ),
    ),
    ...bodySections(body, 1),
  ]
  return [
    `# resource ${shown} on ${printable(hostName)}: ${ignored}, ${stacked}`,
    `# defined at ${printable(file)}:${line}`,
    ...block(`resource ${name(resource.name)}`, 0, inner),
  ]
}

interface HostStyle {
  /** Statements of the one volume stand in the host section, without `volume { }`. */
  readonly isFlat: boolean
  readonly above: ReadonlySet<string>
}

function hostLines(host: SourceHost, { isFlat, above }: HostStyle): string[] {
  const { node } = host
  const volumes = host.volumes.flatMap((volume) => {
    if (isFlat) return volumeLines(volume, 2, node)
    const options = section('disk', 3, optionLines([last(diskOptions(volume, above))], 4))
    return block(`volume ${volume.number}`, 2, [...volumeLines(volume, 3, node), ...options])
  })
  const inner = [
    ...(node.kind === 'stacked' ? [`${INDENT.repeat(2)}# on ${printable(host.names.join(' '))}`] : []),
    ...(node.nodeId === undefined ? [] : [`${INDENT.repeat(2)}node-id ${node.nodeId.id};`]),
    ...volumes,
    ...(node.address === undefined || node.kind === 'floating' ? [] : [statement(2, 'address', address(node.address))]),
    ...(node.alternateAddress === undefined
      ? []
      : [statement(2, 'alternate-link-address', address(node.alternateAddress))]),
    ...section('options', 2, optionLines([last(node.options)], 3)),
    ...(node.proxy === undefined ? [] : proxyLines(node.proxy, 2, '')),
  ]
  return block(hostTitle(node), 1, inner)
}

function hostTitle(node: HostNode): string {
  const names = node.names.map(({ text }) => name(text)).join(' ')
  if (node.kind === 'stacked') return `stacked-on-top-of ${names}`
  return node.kind === 'floating' && node.address !== undefined ? `floating ${address(node.address)}` : `on ${names}`
}

function volumeLines({ device, disk, metaDisk }: SourceVolume, depth: number, node: HostNode): string[] {
  const path = device.path === undefined ? '' : `${name(devicePath(device.path))} `
  const lines = [statement(depth, 'device', `${path}minor ${device.minor}`)]
  if (node.kind === 'stacked') return lines
  // Without a disk there is no metadata either; without meta-disk they are internal (DRBD 9).
  lines.push(statement(depth, 'disk', disk === undefined ? 'none' : name(disk)))
  if (metaDisk === undefined && (disk === undefined || disk === 'none')) return lines
  const index = typeof metaDisk?.index === 'number' ? ` [${metaDisk.index}]` : ''
  return [...lines, statement(depth, 'meta-disk', `${name(metaDisk?.path ?? 'internal')}${index}`)]
}

function diskOptions(volume: SourceVolume, above: ReadonlySet<string>): OptionNode[] {
  const outranked = volume.resourceDiskOptions.filter((option) => !above.has(option.key))
  return [...choose([last(volume.hostDiskOptions), first(outranked)]).values()]
}

function proxyLines(proxy: ProxyNode, depth: number, before: string): string[] {
  const title = `${before}proxy on ${proxy.names.map(({ text }) => name(text)).join(' ')}`
  const options = [...optionLines([last(proxy.options)], depth + 2), ...pluginLines(proxy.plugins, depth + 2)]
  return block(title, depth, [
    ...(proxy.inside === undefined ? [] : [statement(depth + 1, 'inside', address(proxy.inside))]),
    ...(proxy.outside === undefined ? [] : [statement(depth + 1, 'outside', address(proxy.outside))]),
    ...section('options', depth + 1, options),
  ])
}

function connectionLines(connection: ConnectionNode): string[] {
  const inner = connection.paths.flatMap((path) =>
    block(
      'path',
      2,
      path.flatMap((end) => endpointLines(end, 3)),
    ),
  )
  inner.push(...section('net', 2, optionLines([last(connection.net)], 3)))
  inner.push(...section('disk', 2, optionLines([last(connection.disk)], 3)))
  for (const { number, disk } of connection.volumes) {
    inner.push(...block(`volume ${number}`, 2, block('disk', 3, optionLines([last(disk)], 4))))
  }
  return block('connection', 1, inner)
}

function endpointLines(end: EndpointNode, depth: number): string[] {
  const where =
    end.address !== undefined ? ` address ${address(end.address)}` : end.port !== undefined ? ` port ${end.port}` : ''
  const title = `host ${name(end.host.text)}${where}`
  return end.proxy === undefined ? [`${INDENT.repeat(depth)}${title};`] : proxyLines(end.proxy, depth, `${title} via `)
}

function meshLines(hosts: readonly string[], net: readonly OptionNode[]): string[] {
  const inner = [`${INDENT.repeat(2)}hosts ${hosts.join(' ')};`, ...section('net', 2, optionLines([last(net)], 3))]
  return block('connection-mesh', 1, inner)
}

// ---- our own --------------------------------------------------------------------------------------------------------

function coprimeLines(resources: readonly Resource[]): string[] {
  const inner = resources.flatMap((resource) => section(name(resource.name), 1, ownLines(resource)))
  return section('skip coprime', 0, inner)
}

function ownLines({ coprime }: Resource): string[] {
  const { nbd } = coprime
  const listen = nbd.listen.map((where) => {
    const place =
      where.kind === 'unix'
        ? `unix ${quoted(where.path)}`
        : `tcp ${where.host.includes(':') ? `[${where.host}]` : where.host}:${where.port}`
    return statement(3, 'listen', place)
  })
  const settings = (
    { explicit }: { explicit: ReadonlyMap<string, { spelling: string }> },
    depth: number,
    table: (key: string) => string,
  ) =>
    [...explicit].map(([key, { spelling }]) =>
      statement(depth, table(key), BARE_VALUE.test(spelling) ? spelling : quoted(spelling)),
    )
  return [
    ...settings(coprime, 2, (key) => COPRIME[key as keyof typeof COPRIME].name),
    ...section('nbd', 2, [...listen, ...settings(nbd, 3, (key) => NBD[key as keyof typeof NBD].name)]),
  ]
}
