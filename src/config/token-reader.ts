// What all parts of the parser do with tokens: take what must be there, or say in drbdadm's words what was expected.

import { ConfigError, type ConfigErrorCode, type Position, printable } from './config-error.ts'
import { Lexer, type SourceFile, type Token } from './lexer.ts'
import { didYouMean } from './nearest-word.ts'
import type { Notes } from './notes.ts'
import type { AddressFamily, AddressNode, Name } from './tree.ts'
import { parseNumber } from './values.ts'

/** Words that drbdadm 8.4 and 9 both refuse, unquoted, where a name is expected. Observed word by word. */
export const RESERVED_WORDS: ReadonlySet<string> = new Set([
  ...[
    'global',
    'common',
    'resource',
    'on',
    'net',
    'disk',
    'syncer',
    'startup',
    'handlers',
    'options',
    'volume',
    'device',
  ],
  ...[
    'minor',
    'address',
    'meta-disk',
    'flexible-meta-disk',
    'skip',
    'include',
    'floating',
    'proxy',
    'inside',
    'outside',
  ],
  ...['stacked-on-top-of', 'yes', 'no', 'ask', 'ipv4', 'ipv6', 'sci', 'sdp', 'ssocks', 'usage-count', 'minor-count'],
  ...['dialog-refresh', 'disable-ip-verification', 'udev-always-use-vnr'],
  ...['cmd-timeout-short', 'cmd-timeout-medium', 'cmd-timeout-long'],
])

const FAMILIES: ReadonlySet<string> = new Set(['ipv4', 'ipv6', 'ssocks', 'sdp', 'sci'])
const SHOWN_MAX = 20

export class TokenReader {
  readonly lexer: Lexer
  readonly notes: Notes

  constructor(source: SourceFile, notes: Notes) {
    this.lexer = new Lexer(source)
    this.notes = notes
  }

  peek(): Token {
    return this.lexer.peek()
  }

  next(): Token {
    return this.lexer.next()
  }

  /** Whether the next token is this punctuation mark or bare word. */
  at(text: string): boolean {
    const token = this.peek()
    return token.text === text && (token.kind === 'punctuation' || token.kind === 'word')
  }

  accept(text: string): boolean {
    if (!this.at(text)) return false
    this.next()
    return true
  }

  expect(text: string): Token {
    if (!this.at(text)) throw this.expected(text)
    return this.next()
  }

  /** A quoted string, or a bare word that is neither number, address nor reserved. */
  name(what = 'TK_STRING'): Name {
    const token = this.peek()
    const bare = token.kind === 'word' && !RESERVED_WORDS.has(token.text)
    if (token.kind !== 'string' && !bare) {
      const quotable = token.kind === 'word' || token.kind === 'number' || token.kind === 'address'
      throw this.expected(what, quotable ? `A name that is a keyword or a number is written "${token.text}".` : '')
    }
    return this.next()
  }

  /** Any word, number or string. */
  value(): Token {
    const { kind } = this.peek()
    if (kind === 'punctuation' || kind === 'other' || kind === 'end') throw this.expected('TK_STRING | TK_INTEGER')
    return this.next()
  }

  /** The digits of a number: where no quantity is meant, drbdadm lets a suffix stand and takes no notice of it. */
  integer(): number {
    if (this.peek().kind !== 'number') throw this.expected('TK_INTEGER')
    return Number.parseInt(this.next().text, 10)
  }

  /** `[af] ADDR:PORT`, without what ends the statement. */
  address(): AddressNode {
    const first = this.peek()
    let family: AddressFamily = 'ipv4'
    if (first.kind === 'word' && FAMILIES.has(first.text)) {
      family = this.next().text as AddressFamily
    } else if (first.kind !== 'address') {
      throw this.expectedWord(
        'ssocks | sdp | ipv4 | ipv6 | <ipv4 address> ',
        'Addresses are numeric; host names are not looked up.',
      )
    }
    const host = family === 'ipv6' ? this.bracketedAddress() : this.#plainAddress()
    this.expect(':')
    return { family, host, port: this.port(), position: first.position }
  }

  bracketedAddress(): string {
    this.expect('[')
    const address = this.lexer.readIpv6()
    if (address === undefined) throw this.expected('TK_IPADDR6')
    this.expect(']')
    return address.text
  }

  #plainAddress(): string {
    if (this.peek().kind !== 'address') throw this.expected('TK_IPADDR')
    return this.next().text
  }

  port(): number {
    const token = this.peek()
    if (token.kind !== 'number') throw this.expected('TK_INTEGER')
    const port = parseNumber(this.next().text, '') as number
    if (port >= 1 && port <= 65_535) return port
    const problem = `port ${token.text} => ${port} out of range [1..65535].`
    throw this.error('E_CONFIG_VALUE', token.position, problem, 'By convention ports count up from 7788.')
  }

  error(code: ConfigErrorCode, position: Position, problem: string, hint = ''): ConfigError {
    return new ConfigError({ code, position, problem, hint })
  }

  /** "'X' expected, but got 'Y'", with the token's number where drbdadm's is the same in all versions. */
  expected(what: string, hint = ''): ConfigError {
    const token = this.peek()
    const number =
      token.kind === 'end' ? ' (TK 0)' : token.kind === 'punctuation' ? ` (TK ${token.text.charCodeAt(0)})` : ''
    return this.error('E_CONFIG_SYNTAX', token.position, `${expectation(what, token)}${number}`, hint)
  }

  /** The same without the number, where drbdadm compares words. */
  expectedWord(what: string, hint = '', code: ConfigErrorCode = 'E_CONFIG_SYNTAX'): ConfigError {
    const token = this.peek()
    return this.error(code, token.position, expectation(what, token), hint)
  }

  /** The next token is no statement that may stand here; suggests the nearest of `words`. */
  unknownStatement(what: string, words: Iterable<string>): ConfigError {
    const token = this.peek()
    const hint = token.kind === 'word' ? didYouMean(token.text, words) : ''
    return this.error(
      token.kind === 'word' ? 'E_CONFIG_UNKNOWN' : 'E_CONFIG_SYNTAX',
      token.position,
      expectation(what, token),
      hint,
    )
  }
}

const expectation = (what: string, token: Token): string =>
  `Parse error: '${what}' expected,\n\tbut got '${shortened(token.text)}'`

export const shortened = (text: string): string =>
  printable(text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}...` : text)
