// Host sections (`on`, `floating`, `stacked-on-top-of`) and what describes a volume: device, disk, meta-disk, `volume { }`.

import type { Position } from './config-error.ts'
import type { Token } from './lexer.ts'
import { parseSection } from './section-parser.ts'
import type { TokenReader } from './token-reader.ts'
import type { AddressNode, DeviceNode, HostNode, MetaDiskNode, Name, ProxyNode, VolumeNode } from './tree.ts'

/** A place that volumes are described in: a resource or a host section. `label` names it in messages: `r0`, `r0:alice`. */
interface VolumeOwner {
  readonly label: string
  /** Statements of the implicit volume that may stand there only once: at resource level drbdadm cares for one of them. */
  readonly unique: ReadonlySet<string>
  readonly volumes: Map<number, VolumeNode>
}

export const UNIQUE_IN_RESOURCE: ReadonlySet<string> = new Set(['device'])
const UNIQUE_IN_HOST: ReadonlySet<string> = new Set(['device', 'disk', 'meta-disk'])
export const VOLUME_STATEMENTS: ReadonlySet<string> = new Set(['device', 'disk', 'meta-disk', 'flexible-meta-disk'])

const HOST_NAMES_MAX = 64

const HOST_STATEMENTS = 'disk | device | address | meta-disk | flexible-meta-disk | node-id | skip'
const STACKED_STATEMENTS = 'device | address | proxy | volume | node-id'
const HOST_WORDS = [...HOST_STATEMENTS.split(' | '), 'volume', 'options', 'proxy', 'alternate-link-address']

// ---- hosts ----------------------------------------------------------------------------------------------------------

/** `on NAME... { }`; the keyword has been taken. */
export function parseOn(reader: TokenReader, resource: string, position: Position): HostNode {
  const names = hostNames(reader)
  for (const name of names) reader.notes.claim('host section', `${resource}: on ${name.text}`, name.position)
  const host = emptyHost('on', names, position)
  reader.expect('{')
  parseHostItems(reader, resource, host)
  return host
}

function hostNames(reader: TokenReader): Name[] {
  const names = [reader.name(reader.at('{') ? 'TK_STRING' : "TK_STRING | '{'")]
  while (!reader.at('{')) names.push(reader.name("TK_STRING | '{'"))
  if (names.length <= HOST_NAMES_MAX) return names
  throw reader.error('E_CONFIG_LIMIT', reader.peek().position, `more than ${HOST_NAMES_MAX} names for one host`)
}

/** `floating [af] ADDR:PORT ( ; | { } )`. */
export function parseFloating(reader: TokenReader, resource: string, position: Position): HostNode {
  const address = reader.address()
  const name = { text: `${address.host}:${address.port}`, position: address.position }
  reader.notes.claim('host section', `${resource}: floating ${address.family} ${name.text}`, name.position)
  const host = emptyHost('floating', [name], position)
  host.address = address
  if (reader.accept(';')) return host
  if (!reader.accept('{')) throw reader.expected('; | {')
  parseHostItems(reader, resource, host)
  return host
}

/** `stacked-on-top-of RESOURCE { }`. */
export function parseStacked(reader: TokenReader, resource: string, position: Position): HostNode {
  const lower = reader.name()
  reader.notes.claim('host section', `${resource}: stacked-on-top-of ${lower.text}`, lower.position)
  const host = emptyHost('stacked', [lower], position)
  reader.expect('{')
  parseHostItems(reader, resource, host)
  return host
}

const emptyHost = (kind: HostNode['kind'], names: Name[], position: Position): HostNode => ({
  kind,
  names,
  position,
  address: undefined,
  alternateAddress: undefined,
  nodeId: undefined,
  volumes: new Map(),
  options: [],
  proxy: undefined,
})

function parseHostItems(reader: TokenReader, resource: string, host: HostNode): void {
  const label = `${resource}:${(host.names[0] as Name).text}`
  const owner: VolumeOwner = { label, unique: UNIQUE_IN_HOST, volumes: host.volumes }
  while (!reader.accept('}')) {
    const token = reader.peek()
    const word = token.kind === 'word' ? token.text : ''
    if (host.kind === 'stacked' && !STACKED_STATEMENTS.split(' | ').includes(word)) {
      throw reader.unknownStatement(STACKED_STATEMENTS, STACKED_STATEMENTS.split(' | '))
    }
    if (VOLUME_STATEMENTS.has(word)) parseVolumeStatement(reader, owner, reader.next())
    else if (!parseHostItem(reader, word, owner, host)) throw reader.unknownStatement(HOST_STATEMENTS, HOST_WORDS)
  }
}

/** One statement that is not about the implicit volume; false if there is none of this name. */
function parseHostItem(reader: TokenReader, word: string, owner: VolumeOwner, host: HostNode): boolean {
  const { label } = owner
  const { position } = reader.peek()
  switch (word) {
    case 'address': {
      reader.next()
      if (host.kind === 'floating') {
        throw reader.error('E_CONFIG_SYNTAX', position, 'address statement not allowed for floating {} host sections')
      }
      reader.notes.claim('address statement', `${label}:address`, position)
      host.address = parseAddressStatement(reader)
      return true
    }
    case 'alternate-link-address':
      reader.next()
      host.alternateAddress = parseAddressStatement(reader)
      reader.notes.warnOnce('ignored-option', word, position, `'${word}' has no effect here: there is one link.`)
      return true
    case 'node-id':
      reader.next()
      reader.notes.claim('node-id statement', `${label}:node-id`, position)
      host.nodeId = { id: reader.integer(), position }
      reader.expect(';')
      return true
    case 'volume':
      parseVolume(reader, owner, 'host')
      return true
    case 'options':
      reader.next()
      reader.expect('{')
      parseSection(reader, 'host-options', { option: (option) => host.options.push(option) })
      return true
    case 'proxy':
      host.proxy = parseHostProxy(reader)
      return true
    case 'skip':
      parseSkip(reader)
      return true
    default:
      return false
  }
}

function parseAddressStatement(reader: TokenReader): AddressNode {
  const address = reader.address()
  reader.expect(';')
  return address
}

/** `proxy on NAME... { inside ADDR; outside ADDR; options { } }`, also after `via` in a connection. */
export function parseHostProxy(reader: TokenReader): ProxyNode {
  const { position } = reader.next()
  reader.notes.warnOnce(
    'ignored-section',
    'proxy',
    position,
    "'proxy' is not configured from here; it must be running already.",
  )
  reader.expect('on')
  const names = hostNames(reader)
  reader.expect('{')
  const proxy: ProxyNode = { names, position, inside: undefined, outside: undefined, options: [], plugins: [] }
  while (!reader.accept('}')) {
    if (reader.accept('inside')) proxy.inside = parseAddressStatement(reader)
    else if (reader.accept('outside')) proxy.outside = parseAddressStatement(reader)
    else if (reader.accept('options')) {
      reader.expect('{')
      parseSection(reader, 'proxy', { option: (option) => proxy.options.push(option), plugins: proxy.plugins })
    } else throw reader.unknownStatement('inside | outside', ['inside', 'outside', 'options'])
  }
  for (const side of ['inside', 'outside'] as const) {
    if (proxy[side] !== undefined) continue
    const problem = `in section: proxy on ${names[0]?.text} { ... } }: '${side}' keyword missing.`
    throw reader.error('E_CONFIG_MISSING', position, problem)
  }
  return proxy
}

/** `skip WORD... { ... }`; what is inside need not be of this language. */
export function parseSkip(reader: TokenReader): void {
  skipToEnd(reader, reader.next().position)
}

/** The same from behind the keyword, or behind a word after it. */
export function skipToEnd(reader: TokenReader, position: Position): void {
  while (!reader.at('{')) {
    const { kind } = reader.peek()
    if (kind === 'punctuation' || kind === 'other' || kind === 'end') throw reader.expectedWord('[ some_text ] {')
    reader.next()
  }
  reader.next()
  if (!reader.lexer.skipBlock()) throw unfinishedSkip(reader, position)
}

export const unfinishedSkip = (reader: TokenReader, position: Position) =>
  reader.error('E_CONFIG_SYNTAX', position, 'reached eof while parsing this skip block.', 'A } is missing.')

// ---- volumes --------------------------------------------------------------------------------------------------------

/** `volume N { }`. A second one of that number adds to the first (resource), or is refused (host). */
export function parseVolume(reader: TokenReader, owner: VolumeOwner, where: 'resource' | 'host'): void {
  const { position } = reader.next()
  const number = reader.integer()
  if (where === 'host' && owner.volumes.get(0)?.inSection === false) throw mixedVolumes(reader, position)
  reader.expect('{')
  const volume = emptyVolume(number, false, position)
  while (!reader.accept('}')) {
    const token = reader.peek()
    if (token.kind === 'word' && VOLUME_STATEMENTS.has(token.text))
      readVolumeStatement(reader, volume, reader.next(), undefined)
    else throw reader.expected('device | disk | meta-disk | flex-meta-disk | }')
  }
  if (where === 'host') reader.notes.claim('volume section', `${owner.label}:${number}`, position)
  addVolume(owner.volumes, volume)
}

/** A statement outside of any `volume { }`: it is about volume 0. Its keyword has been taken. */
export function parseVolumeStatement(reader: TokenReader, owner: VolumeOwner, keyword: Token): void {
  const { position } = keyword
  const there = owner.volumes.get(0)
  if (owner.volumes.size > 0 && (owner.volumes.size > 1 || there?.inSection !== false)) {
    throw mixedVolumes(reader, position)
  }
  const volume = there ?? emptyVolume(0, true, position)
  owner.volumes.set(0, volume)
  readVolumeStatement(reader, volume, keyword, owner)
}

function mixedVolumes(reader: TokenReader, position: Position) {
  const hint = 'Move the statements into volume sections, or drop the sections.'
  return reader.error('E_CONFIG_SYNTAX', position, 'mixing explicit and implicit volumes is not allowed', hint)
}

function readVolumeStatement(
  reader: TokenReader,
  volume: VolumeNode,
  keyword: Token,
  owner: VolumeOwner | undefined,
): void {
  const { text, position } = keyword
  const claim = (what: string): void => {
    if (owner?.unique.has(what)) reader.notes.claim(`${what} statement`, `${owner.label}:${what}`, position)
  }
  if (text === 'device') {
    claim('device')
    volume.device = parseDevice(reader, position, volume.device?.path) ?? volume.device
  } else if (text === 'disk') {
    claim('disk')
    if (reader.accept('{')) {
      volume.diskOptions = []
      parseSection(reader, 'disk', { option: (option) => volume.diskOptions.push(option) })
      return
    }
    volume.disk = reader.name('TK_STRING | {')
    reader.expect(';')
  } else {
    claim('meta-disk')
    volume.metaDisk = parseMetaDisk(reader, text === 'flexible-meta-disk', position)
  }
}

export const emptyVolume = (number: number, implicit: boolean, position: Position): VolumeNode => ({
  number,
  implicit,
  inSection: !implicit,
  position,
  device: undefined,
  disk: undefined,
  metaDisk: undefined,
  diskOptions: [],
})

/** Statements of the volume that is there already win. */
function addVolume(volumes: Map<number, VolumeNode>, added: VolumeNode): void {
  const there = volumes.get(added.number)
  volumes.set(added.number, {
    ...added,
    implicit: there?.implicit ?? added.implicit,
    device: there?.device ?? added.device,
    disk: there?.disk ?? added.disk,
    metaDisk: there?.metaDisk ?? added.metaDisk,
    diskOptions: [...(there?.diskOptions ?? []), ...added.diskOptions],
  })
}

/** `device [PATH] [minor N] ;`. Without either the statement says nothing, which drbdadm allows; `known`: path up to now. */
function parseDevice(reader: TokenReader, position: Position, known: string | undefined): DeviceNode | undefined {
  if (reader.accept(';')) return undefined
  let path = known
  if (!reader.at('minor')) {
    const token = reader.peek()
    const isPath = token.kind === 'word' || token.kind === 'string'
    if (!isPath) throw reader.unknownStatement(HOST_STATEMENTS, [])
    path = reader.next().text
    checkDevicePath(reader, path, position)
  }
  let minor: number | undefined
  if (reader.accept('minor')) {
    minor = reader.integer()
    reader.expect(';')
  } else if (!reader.accept(';')) throw reader.expectedWord('minor | ;')
  return { path, minor: deviceMinor(reader, path, minor, position), position }
}

const NUMBERED = /^(?:\/dev\/)?drbd([0-9]{1,9})$/

function checkDevicePath(reader: TokenReader, path: string, position: Position): void {
  if (/^(?:\/dev\/)?drbd/.test(path)) return
  const problem = 'device name must start with /dev/drbd\n\t(/dev/ is optional, but drbd is required)'
  throw reader.error('E_CONFIG_VALUE', position, problem, `Write 'device /dev/drbd_NAME minor N;'.`)
}

function deviceMinor(
  reader: TokenReader,
  path: string | undefined,
  minor: number | undefined,
  position: Position,
): number {
  const numbered = path === undefined ? undefined : NUMBERED.exec(path)?.[1]
  if (minor === undefined) {
    if (numbered !== undefined) return Number(numbered)
    const problem = 'no minor given nor device name contains a minor number'
    throw reader.error('E_CONFIG_VALUE', position, problem, `Add 'minor N' before the semicolon.`)
  }
  if (numbered !== undefined && Number(numbered) !== minor) {
    const problem = 'explicit minor number must match with device name'
    throw reader.error('E_CONFIG_VALUE', position, problem, `Write 'device /dev/drbd${minor} minor ${minor};'.`)
  }
  if (path !== undefined && numbered === undefined && !/^(?:\/dev\/)?drbd_/.test(path)) {
    const problem = `arbitrary device name must start with /dev/drbd_\n\tmind the '_'! (/dev/ is optional, but drbd_ is required)`
    throw reader.error('E_CONFIG_VALUE', position, problem)
  }
  return minor
}

function parseMetaDisk(reader: TokenReader, flexible: boolean, position: Position): MetaDiskNode {
  const path = reader.name().text
  let index: number | 'flexible' | undefined = path === 'internal' ? undefined : 'flexible'
  if (!flexible && index === 'flexible' && reader.accept('[')) {
    index = reader.integer()
    reader.expect(']')
  }
  reader.expect(';')
  return { path, index, position }
}
