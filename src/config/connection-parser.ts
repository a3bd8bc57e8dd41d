// DRBD 9's `connection { }` and `connection-mesh { }`. With two hosts they say little that `on` sections do not: another
// address or port for the pair, and options of the pair.

import { parseHostProxy, parseSkip } from './host-parser.ts'
import { parseSection } from './section-parser.ts'
import type { TokenReader } from './token-reader.ts'
import type { ConnectionNode, CoprimeNode, EndpointNode, MeshNode } from './tree.ts'

const CONNECTION_WORDS = ['host', 'path', 'net', 'disk', 'volume', 'skip']
const CONNECTION_STATEMENTS = 'host | net | skip | }'

/** `connection [NAME] { }`; `coprime` takes our own options out of its `net { }`. */
export function parseConnection(reader: TokenReader, resource: string, coprime: CoprimeNode): ConnectionNode {
  const { position } = reader.next()
  if (!reader.at('{')) {
    const name = reader.name()
    reader.notes.warn(
      'deprecated',
      position,
      `explicitly named connections are deprecated! its name ('${name.text}') will be ignored`,
    )
  }
  reader.expect('{')
  const connection: ConnectionNode = { position, paths: [], net: [], disk: [], volumes: [] }
  const direct: EndpointNode[] = []
  while (!reader.accept('}')) parseConnectionItem(reader, connection, direct, coprime)
  if (direct.length > 0) connection.paths.unshift(direct)
  if (connection.paths.length === 0) {
    throw reader.error('E_CONFIG_MISSING', position, 'connection without a single path (maybe empty?) not allowed')
  }
  if (connection.paths.some((path) => path.length !== 2)) {
    throw reader.error('E_CONFIG_MISSING', position, `Resource ${resource}: connection needs to have two endpoints`)
  }
  return connection
}

function parseConnectionItem(
  reader: TokenReader,
  connection: ConnectionNode,
  direct: EndpointNode[],
  coprime: CoprimeNode,
): void {
  const token = reader.peek()
  switch (token.kind === 'word' ? token.text : '') {
    case 'host':
      addEndpoint(reader, direct)
      return
    case 'path':
      connection.paths.push(parsePath(reader))
      return
    case 'net':
      parseConnectionNet(reader, connection.net, coprime)
      return
    case 'disk':
      reader.next()
      reader.expect('{')
      parseSection(reader, 'peer-device', { option: (option) => connection.disk.push(option) })
      return
    case 'volume':
      connection.volumes.push(parseConnectionVolume(reader))
      return
    case 'skip':
      parseSkip(reader)
      return
    case '_peer_node_id': // written by DRBD's own tools into what they generate
      reader.next()
      reader.integer()
      reader.expect(';')
      return
    default:
      throw reader.unknownStatement(CONNECTION_STATEMENTS, CONNECTION_WORDS)
  }
}

function parseConnectionNet(reader: TokenReader, net: ConnectionNode['net'], coprime: CoprimeNode): void {
  reader.next()
  reader.expect('{')
  parseSection(reader, 'net', {
    option: (option) => (option.target === 'coprime' ? coprime.options : net).push(option),
    coprime,
  })
}

function parsePath(reader: TokenReader): EndpointNode[] {
  reader.next()
  reader.expect('{')
  const path: EndpointNode[] = []
  while (!reader.accept('}')) {
    if (!reader.at('host')) throw reader.unknownStatement('host | }', ['host'])
    addEndpoint(reader, path)
  }
  return path
}

/** `host NAME [address [af] A:P | port P] ( ; | via proxy on NAME { } )`. */
function addEndpoint(reader: TokenReader, path: EndpointNode[]): void {
  const { position } = reader.next()
  if (path.length === 2)
    throw reader.error('E_CONFIG_CONFLICT', position, "only two 'host' keywords per connection allowed")
  const host = reader.name()
  const address = reader.accept('address') ? reader.address() : undefined
  const port = address === undefined && reader.accept('port') ? reader.port() : undefined
  if (!reader.accept('via')) {
    reader.expect(';')
    path.push({ host, address, port, proxy: undefined })
    return
  }
  if (!reader.at('proxy')) throw reader.expected('proxy')
  path.push({ host, address, port, proxy: parseHostProxy(reader) })
}

function parseConnectionVolume(reader: TokenReader): ConnectionNode['volumes'][number] {
  const { position } = reader.next()
  const number = reader.integer()
  reader.expect('{')
  const disk: ConnectionNode['disk'] = []
  do {
    if (!reader.accept('disk')) throw reader.expected('TK_DISK')
    reader.expect('{')
    parseSection(reader, 'peer-device', { option: (option) => disk.push(option) })
  } while (!reader.accept('}'))
  return { number, disk, position }
}

/** `connection-mesh { hosts NAME...; net { } }`. */
export function parseMesh(reader: TokenReader, coprime: CoprimeNode): MeshNode {
  const { position } = reader.next()
  reader.expect('{')
  const mesh: MeshNode = { position, hosts: [], net: [] }
  while (!reader.accept('}')) {
    if (reader.accept('hosts')) {
      do mesh.hosts.push(reader.name())
      while (!reader.accept(';'))
    } else if (reader.at('net')) parseConnectionNet(reader, mesh.net, coprime)
    else if (reader.at('skip')) parseSkip(reader)
    else throw reader.unknownStatement('hosts | net | }', ['hosts', 'net', 'skip'])
  }
  return mesh
}
