// One file -> its part of the tree (grammar: config-and-tools.md 1.3). Accepts what drbdadm 8.4 or 9 accepts, and says the
// same about what neither does. `include` and `template-file` are handed to the loader, which knows the files.
//
// Our own options stand in `net { }` and `options { }`, or in a block that drbdadm passes over:
//
//   skip coprime {
//       common { global-write-order auto; }
//       r0 { write-now-acks yes; nbd { listen unix /run/r0.sock; listen tcp 127.0.0.1:10809; } }
//   }

import { ConfigError, type Position } from './config-error.ts'
import { parseConnection, parseMesh } from './connection-parser.ts'
import {
  parseFloating,
  parseOn,
  parseSkip,
  parseStacked,
  parseVolume,
  parseVolumeStatement,
  skipToEnd,
  UNIQUE_IN_RESOURCE,
  unfinishedSkip,
} from './host-parser.ts'
import type { SourceFile } from './lexer.ts'
import type { Notes } from './notes.ts'
import { parseOption, parseSection } from './section-parser.ts'
import { TokenReader } from './token-reader.ts'
import type { BodyNode, ConfigTree, Name, OptionNode, SkippedCoprimeNode } from './tree.ts'

/** What the parser leaves to whoever has the files. */
export interface Inclusions {
  include(pattern: Name, statement: Position): void
  /** The `common { }` of a template file. */
  template(path: Name, statement: Position): { readonly path: string; readonly body: BodyNode }
}

export interface ParseInput {
  readonly source: SourceFile
  readonly notes: Notes
  readonly tree: ConfigTree
  readonly inclusions: Inclusions
}

const TOP_STATEMENTS = 'global | common | resource | skip | include'
const REQUIREMENT = /^require-drbd-module-version-(?:eq|ne|gt|ge|lt|le)$/
const TOP_WORDS = [...TOP_STATEMENTS.split(' | '), ...['eq', 'ne', 'gt', 'ge', 'lt', 'le'].map(requirement)]
const BODY_STATEMENTS =
  'protocol | on | disk | net | syncer | startup | handlers | connection | ignore-on | stacked-on-top-of | skip'
const BODY_WORDS = [
  ...BODY_STATEMENTS.split(' | '),
  ...['options', 'proxy', 'floating', 'volume', 'device', 'meta-disk', 'flexible-meta-disk', 'connection-mesh'],
  'template-file',
]

function requirement(comparison: string): string {
  return `require-drbd-module-version-${comparison}`
}

export function parseFile(input: ParseInput): void {
  const reader = new TokenReader(input.source, input.notes)
  while (reader.peek().kind !== 'end') parseTop(reader, input)
}

/** A template file: `common { }` and nothing else. */
export function parseTemplate(source: SourceFile, notes: Notes, inclusions: Inclusions): BodyNode {
  const reader = new TokenReader(source, notes)
  if (!reader.at('common')) throw reader.expected('TK_COMMON')
  // Named after its file, as its sections are none of those that `common { }` must have only once.
  const name = { text: `template-file ${source.path}`, position: reader.next().position }
  const template = parseBody(reader, inclusions, name, true)
  if (reader.peek().kind !== 'end') throw reader.expected('end of file')
  return template
}

function parseTop(reader: TokenReader, input: ParseInput): void {
  const token = reader.peek()
  const word = token.kind === 'word' ? token.text : ''
  if (word === 'global') parseGlobal(reader, input)
  else if (word === 'common') parseCommon(reader, input)
  else if (word === 'resource') parseResource(reader, input)
  else if (word === 'skip') parseTopSkip(reader, input.tree)
  else if (word === 'include') {
    reader.next()
    const pattern = reader.name()
    reader.expect(';')
    input.inclusions.include(pattern, token.position)
  } else if (REQUIREMENT.test(word)) parseRequirement(reader)
  else throw reader.unknownStatement(`${TOP_STATEMENTS} |\n\t${requirement('{eq,ne,gt,ge,lt,le}')}`, TOP_WORDS)
}

function parseGlobal(reader: TokenReader, { notes, tree }: ParseInput): void {
  const { position } = reader.next()
  notes.claim('global section', 'global', position)
  reader.expect('{')
  const options: OptionNode[] = []
  parseSection(reader, 'global', { option: (option) => options.push(option) })
  if (tree.resources.length > 0) {
    notes.warn('order', position, 'You should put the global {} section in front of any resource {} section')
  }
  tree.global = { position, options }
}

function parseCommon(reader: TokenReader, { notes, tree, inclusions }: ParseInput): void {
  const keyword = reader.next()
  notes.claim('resource section', 'common', keyword.position)
  tree.common = parseBody(reader, inclusions, keyword, true)
}

function parseResource(reader: TokenReader, { notes, tree, inclusions }: ParseInput): void {
  reader.next()
  const name = reader.name()
  if (name.text === '') {
    const problem = 'Resource name is empty.'
    throw new ConfigError({ code: 'E_CONFIG_VALUE', position: name.position, problem, hint: '', exitCode: 1 })
  }
  notes.claim('resource section', name.text, name.position)
  tree.resources.push(parseBody(reader, inclusions, name, false))
}

function parseRequirement(reader: TokenReader): void {
  const { text, position } = reader.next()
  const version = reader.peek()
  if (version.kind !== 'word' || !/^[0-9]+\.[0-9]+\.[0-9]+$/.test(version.text)) throw reader.expected('TK_KMODVERS')
  reader.next()
  reader.expect(';')
  reader.notes.warnOnce('ignored-option', text, position, `'${text}' has no effect here: there is no kernel module.`)
}

// ---- resource and common --------------------------------------------------------------------------------------------

const emptyBody = (name: Name, definedAt: Position, common: boolean): BodyNode => ({
  name,
  definedAt,
  common,
  options: [],
  listens: [],
  net: [],
  disk: [],
  resourceOptions: [],
  startup: [],
  handlers: [],
  proxy: [],
  plugins: [],
  volumes: new Map(),
  hosts: [],
  connections: [],
  meshes: [],
  ignoreOn: [],
  template: undefined,
})

function parseBody(reader: TokenReader, inclusions: Inclusions, name: Name, common: boolean): BodyNode {
  const { position } = reader.expect('{')
  const body = emptyBody({ text: name.text, position: name.position }, position, common)
  while (!reader.accept('}')) {
    if (reader.peek().kind === 'end') {
      // drbdadm takes the end of the file for the closing brace, here and only here.
      const message = `the file ends inside of '${name.text}', which starts at line ${name.position.line}: a } is missing.`
      reader.notes.warn('unclosed-section', reader.peek().position, message)
      break
    }
    parseBodyItem(reader, inclusions, body)
  }
  if (common && (body.volumes.size > 0 || body.connections.length > 0 || body.meshes.length > 0)) {
    reader.notes.warn('ignored-section', name.position, 'volumes and connections in common {} have no effect.')
  }
  return body
}

function parseBodyItem(reader: TokenReader, inclusions: Inclusions, body: BodyNode): void {
  const token = reader.peek()
  const word = token.kind === 'word' ? token.text : ''
  const owner = { label: body.name.text, unique: UNIQUE_IN_RESOURCE, volumes: body.volumes }
  switch (word) {
    case 'net':
    case 'options':
    case 'startup':
    case 'handlers':
    case 'syncer':
    case 'proxy':
      reader.next()
      parseBodySection(reader, word, body, token.position)
      return
    case 'disk': {
      const keyword = reader.next()
      if (reader.at('{')) parseBodySection(reader, 'disk', body, token.position)
      else parseVolumeStatement(reader, owner, keyword)
      return
    }
    case 'device':
    case 'meta-disk':
    case 'flexible-meta-disk':
      parseVolumeStatement(reader, owner, reader.next())
      return
    case 'volume':
      parseVolume(reader, owner, 'resource')
      return
    case 'skip':
      parseSkip(reader)
      return
    case 'on':
    case 'floating':
    case 'stacked-on-top-of':
      parseHost(reader, word, body, reader.next().position)
      return
    default:
      parseRareItem(reader, inclusions, body, word)
  }
}

/** Statements of the past and of DRBD 9. */
function parseRareItem(reader: TokenReader, inclusions: Inclusions, body: BodyNode, word: string): void {
  const { position, kind, text } = reader.peek()
  if (text === 'protocol' && (kind === 'word' || kind === 'string')) {
    reader.notes.claim('protocol statement', `${body.name.text}: protocol`, position)
    body.net.push(parseOption(reader, 'net')) // the place of old of a statement that belongs in net
  } else if (word === 'connection') {
    body.connections.push(parseConnection(reader, body.name.text, body))
  } else if (word === 'connection-mesh') {
    body.meshes.push(parseMesh(reader, body))
  } else if (word === 'ignore-on') {
    reader.next()
    reader.notes.warn(
      'deprecated',
      position,
      `in resource ${body.name.text}, WARN: The 'ignore-on' keyword is deprecated.`,
    )
    body.ignoreOn.push(reader.name())
    reader.expect(';')
  } else if (word === 'template-file' && !body.common) {
    reader.next()
    const path = reader.name()
    reader.expect(';')
    body.template = inclusions.template(path, position)
  } else throw reader.unknownStatement(BODY_STATEMENTS, BODY_WORDS)
}

function parseHost(
  reader: TokenReader,
  word: 'on' | 'floating' | 'stacked-on-top-of',
  body: BodyNode,
  position: Position,
): void {
  if (body.common) {
    throw reader.error('E_CONFIG_SYNTAX', position, 'in the common section, there are no host sections allowed.')
  }
  const parse = word === 'on' ? parseOn : word === 'floating' ? parseFloating : parseStacked
  body.hosts.push(parse(reader, body.name.text, position))
}

type BodySection = 'net' | 'disk' | 'options' | 'startup' | 'handlers' | 'syncer' | 'proxy'

function parseBodySection(reader: TokenReader, section: BodySection, body: BodyNode, position: Position): void {
  const { notes } = reader
  if (section === 'options') notes.claim('resource options section', `${body.name.text}:res_options`, position)
  else notes.claim(`${section} section`, `${body.name.text}:${section}`, position)
  if (section === 'proxy') {
    notes.warnOnce(
      'ignored-section',
      'proxy',
      position,
      "'proxy' is not configured from here; it must be running already.",
    )
  }
  reader.expect('{')
  const option = (found: OptionNode): void => void listOf(body, found.target)?.push(found)
  if (section === 'net' || section === 'options') parseSection(reader, section, { option, coprime: body })
  else parseSection(reader, section, { option, plugins: body.plugins })
}

/** Options go to the list of the section that they belong to now, whatever section of old they were found in. */
function listOf(body: BodyNode, target: OptionNode['target']): OptionNode[] | undefined {
  switch (target) {
    case 'net':
      return body.net
    case 'disk':
      return body.disk
    case 'options':
      return body.resourceOptions
    case 'startup':
      return body.startup
    case 'handlers':
      return body.handlers
    case 'proxy':
      return body.proxy
    case 'coprime':
    case 'nbd':
      return body.options
    default:
      return undefined // obsolete: read, and forgotten
  }
}

// ---- skip coprime ---------------------------------------------------------------------------------------------------

function parseTopSkip(reader: TokenReader, tree: ConfigTree): void {
  const keyword = reader.next()
  if (!reader.accept('coprime') || !reader.at('{')) {
    skipToEnd(reader, keyword.position)
    return
  }
  reader.next()
  while (!reader.accept('}')) {
    if (reader.peek().kind === 'end') throw unfinishedSkip(reader, keyword.position)
    tree.skipped.push(parseSkippedResource(reader))
  }
}

function parseSkippedResource(reader: TokenReader): SkippedCoprimeNode {
  const { position } = reader.peek()
  const resource = reader.accept('common') ? undefined : reader.name()
  reader.expect('{')
  const node: SkippedCoprimeNode = { resource, position, options: [], listens: [] }
  parseSection(reader, 'coprime', { option: (option) => node.options.push(option), coprime: node })
  return node
}
