// Sections that hold options: `net { NAME [VALUE]; ... }` and its like. Every option is looked up, and its value typed and
// range-checked, while it is read, so that errors come in the order of the file, as drbdadm reports them.

import type { Token } from './lexer.ts'
import { didYouMean } from './nearest-word.ts'
import { type FoundOption, findOption, homeOf, optionNames, type SectionKind } from './option-lookup.ts'
import type { OptionValue } from './option-spec.ts'
import { shortened, type TokenReader } from './token-reader.ts'
import type { AddressNode, CoprimeNode, ListenNode, OptionNode } from './tree.ts'
import { parseValue } from './values.ts'

export interface SectionSink {
  option(option: OptionNode): void
  /** Our own `nbd { }`, where it may stand. */
  readonly coprime?: CoprimeNode
  /** Options of the proxy's plugins. */
  readonly plugins?: string[][]
}

/** Everything between the braces, with the closing one; the opening one has been taken. */
export function parseSection(reader: TokenReader, section: SectionKind, sink: SectionSink): void {
  while (!reader.accept('}')) {
    if (sink.coprime !== undefined && reader.at('nbd')) parseNbd(reader, sink.coprime)
    else if (section === 'proxy' && reader.at('plugin')) sink.plugins?.push(...parsePlugin(reader))
    else sink.option(parseOption(reader, section))
  }
}

/** `NAME [VALUE];` */
export function parseOption(reader: TokenReader, section: SectionKind): OptionNode {
  const token = reader.peek()
  const isName = token.kind === 'word' || token.kind === 'string'
  const found = isName ? findOption(section, token.text) : undefined
  if (found === undefined) throw unknownOption(reader, section)
  reader.next()
  const option = readOption(reader, section, token, found)
  reader.expect(';')
  if (found.spec.ignored !== undefined) {
    const message = `'${found.spec.name}' has no effect here: ${found.spec.ignored}.`
    reader.notes.warnOnce('ignored-option', found.spec.name, option.position, message)
  }
  return option
}

function unknownOption(reader: TokenReader, section: SectionKind) {
  const token = reader.peek()
  const known = token.kind === 'word' || token.kind === 'string'
  const home = known ? homeOf(token.text) : undefined
  const nearest = known ? didYouMean(token.text, optionNames(section)) : ''
  const hint = home === undefined ? nearest : `'${token.text}' belongs in ${home} { }.`
  return reader.expectedWord(
    EXPECTED[section] ?? 'an option keyword',
    hint,
    known ? 'E_CONFIG_UNKNOWN' : 'E_CONFIG_SYNTAX',
  )
}

const EXPECTED: Partial<Record<SectionKind, string>> = {
  global: 'dialog-refresh | minor-count | disable-ip-verification',
  syncer: 'a syncer option keyword',
}

function readOption(reader: TokenReader, section: SectionKind, name: Token, found: FoundOption): OptionNode {
  const { target, key, spec, negated } = found
  const base = { target, key, spec, position: name.position }
  if (spec.kind === 'flag') return { ...base, value: true, spelling: '' }
  if (spec.kind === 'boolean' && reader.at(';')) {
    return { ...base, value: !negated, spelling: negated ? 'no' : 'yes' }
  }
  if (spec.kind === 'names') {
    const words: string[] = []
    while (!reader.at(';')) words.push(reader.value().text)
    return { ...base, value: words, spelling: words.join(' ') }
  }
  const value = section === 'global' ? globalValue(reader, found) : reader.value()
  return { ...base, value: typedValue(reader, found, value), spelling: value.text }
}

/** In `global { }` the scanner's own idea of a number and of a keyword decides. */
function globalValue(reader: TokenReader, found: FoundOption): Token {
  const { spec } = found
  const token = reader.peek()
  if (spec.kind === 'choice' && !(token.kind === 'word' && spec.words.includes(token.text))) {
    throw reader.expectedWord(spec.words.join(' | '), didYouMean(token.text, spec.words))
  }
  if (spec.kind === 'number' && token.kind !== 'number') throw reader.expected('TK_INTEGER')
  return reader.next()
}

function typedValue(reader: TokenReader, found: FoundOption, token: Token): OptionValue {
  const { spec } = found
  const parsed = parseValue(spec, token.text)
  if (parsed.ok) return parsed.value
  const shown = spec.kind === 'text' && spec.secret ? '***' : shortened(token.text)
  const problem = `Parse error: while parsing value ('${shown}')\nfor ${spec.name}. ${parsed.problem}`
  throw reader.error('E_CONFIG_VALUE', token.position, problem, parsed.hint)
}

/** `plugin { NAME WORD...; ... }` of DRBD proxy: kept as words. */
function parsePlugin(reader: TokenReader): string[][] {
  reader.next()
  reader.expect('{')
  const plugins: string[][] = []
  while (!reader.accept('}')) {
    const words = [reader.value().text]
    while (!reader.accept(';')) words.push(reader.value().text)
    plugins.push(words)
  }
  return plugins
}

// ---- our own --------------------------------------------------------------------------------------------------------

/** `nbd { listen unix PATH; listen tcp ADDRESS:PORT; export-name NAME; max-connections N; }`. */
function parseNbd(reader: TokenReader, coprime: CoprimeNode): void {
  reader.next()
  reader.expect('{')
  while (!reader.accept('}')) {
    if (reader.at('listen')) coprime.listens.push(parseListen(reader))
    else if (reader.peek().kind === 'word') coprime.options.push(parseNbdOption(reader))
    else throw reader.unknownStatement('listen | export-name | max-connections | }', [])
  }
}

function parseNbdOption(reader: TokenReader): OptionNode {
  if (findOption('nbd', reader.peek().text) !== undefined) return parseOption(reader, 'nbd')
  throw reader.unknownStatement('listen | export-name | max-connections | }', ['listen', ...optionNames('nbd')])
}

/** An address in brackets is IPv6, without is IPv4; `address()` with its families is DRBD's own and older. */
function parseListen(reader: TokenReader): ListenNode {
  const { position } = reader.next()
  if (reader.accept('unix')) {
    const path = reader.value().text
    reader.expect(';')
    return { listen: { kind: 'unix', path }, position }
  }
  if (!reader.accept('tcp')) throw reader.unknownStatement('unix | tcp', ['unix', 'tcp'])
  const address = reader.at('[') ? bracketed(reader) : reader.address()
  reader.expect(';')
  return { listen: { kind: 'tcp', address }, position }
}

function bracketed(reader: TokenReader): AddressNode {
  const { position } = reader.peek()
  const host = reader.bracketedAddress()
  reader.expect(':')
  return { family: 'ipv6', host, port: reader.port(), position }
}
