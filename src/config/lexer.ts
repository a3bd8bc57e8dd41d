// Splits the text of a drbd.conf file into tokens (config-and-tools.md 1.2). One token is looked ahead at most.
//
//   white space   space, tab, CR, LF; `#` to the end of the line
//   punctuation   { } ; [ ] :
//   word          A-Z a-z 0-9 / . _ -, at most 128 of them
//   number        a word of 1 to 8 digits, with K, M, G or s after it or not (`10k` is a plain word for drbdadm)
//   address       a word of four groups of 1 to 3 digits
//   string        "...", at most 255 bytes, on one line; \" and \\ are escapes, any other backslash is dropped
//   other         any other character
//
// IPv6 addresses are read on demand, after `[`, as only the parser knows where one may stand. What stands in a `skip`
// block is not split into tokens at all: it need not be drbd.conf's language.

import { ConfigError, type ConfigErrorCode, type Position, printable } from './config-error.ts'

export interface SourceFile {
  readonly path: string
  readonly text: string
}

export type TokenKind = 'word' | 'number' | 'address' | 'string' | 'punctuation' | 'other' | 'end'

export interface Token {
  readonly kind: TokenKind
  /** Without quotes and escapes; '' at the end of the file. */
  readonly text: string
  readonly position: Position
}

export const WORD_LENGTH_MAX = 128
export const STRING_LENGTH_MAX_BYTES = 255

// Bounded repetitions only: an unbounded one over a long file would exhaust the regular expression's own stack.
const WORD = /[A-Za-z0-9/._-]{1,129}/y
const NUMBER = /^[0-9]{1,8}[KMGs]?$/
const ADDRESS = /^[0-9]{1,3}(?:\.[0-9]{1,3}){3}$/
const IPV6 = /(?=[0-9A-Fa-f]{0,8}:[0-9A-Fa-f]{0,8}:)[0-9A-Fa-f:]{2,64}(?:\.[0-9]{1,3}){0,3}(?:%[A-Za-z0-9._-]{1,64})?/y
const PUNCTUATION = '{};[]:'

export class Lexer {
  readonly #source: SourceFile
  #offset = 0
  #line = 1
  /** Offset at which the current line starts. */
  #lineStart = 0
  #ahead: Token | undefined

  constructor(source: SourceFile) {
    this.#source = source
  }

  get file(): string {
    return this.#source.path
  }

  peek(): Token {
    this.#ahead ??= this.#read()
    return this.#ahead
  }

  next(): Token {
    const token = this.peek()
    this.#ahead = undefined
    return token
  }

  /** The IPv6 address at this point, or undefined; the token before it must have been taken with `next`. */
  readIpv6(): Token | undefined {
    if (this.#ahead !== undefined) return undefined
    this.#skipSpace()
    const position = this.#position()
    const text = this.#match(IPV6)
    return text === undefined ? undefined : { kind: 'address', text, position }
  }

  /** Passes over all up to the brace that closes the block whose `{` was taken last; false if the file ends before. */
  skipBlock(): boolean {
    for (let depth = 1; depth > 0; ) {
      this.#skipSpace()
      const character = this.#source.text[this.#offset]
      if (character === undefined) return false
      if (character === '"') {
        // A brace in a string does not count. Nor does one after a quote that nothing closes, up to the end of the
        // line, unless the file ends there: all three as drbdadm does it.
        const end = this.#endOfString()
        const endOfLine = this.#source.text.indexOf('\n', this.#offset)
        this.#offset = end ?? (endOfLine === -1 ? this.#offset + 1 : endOfLine)
        continue
      }
      if (character === '{') depth++
      if (character === '}') depth--
      this.#offset++
    }
    return true
  }

  #read(): Token {
    this.#skipSpace()
    const position = this.#position()
    const character = this.#source.text[this.#offset]
    if (character === undefined) return { kind: 'end', text: '', position }
    if (character === '"') return this.#readString(position)
    if (PUNCTUATION.includes(character)) {
      this.#offset++
      return { kind: 'punctuation', text: character, position }
    }
    const word = this.#match(WORD)
    if (word === undefined) {
      const text = String.fromCodePoint(this.#source.text.codePointAt(this.#offset) ?? 0)
      this.#offset += text.length
      return { kind: 'other', text, position }
    }
    if (word.length > WORD_LENGTH_MAX) {
      const problem = `Token too long >>>${word.slice(0, 20)}...<<<`
      throw syntaxError(position, problem, `A bare word has at most ${WORD_LENGTH_MAX} characters.`)
    }
    const kind = NUMBER.test(word) ? 'number' : ADDRESS.test(word) ? 'address' : 'word'
    return { kind, text: word, position }
  }

  #readString(position: Position): Token {
    const end = this.#endOfString()
    if (end === undefined) {
      const rest = /[^\n]{0,20}/.exec(this.#source.text.slice(this.#offset, this.#offset + 20))?.[0] ?? ''
      const problem = `Unterminated double quoted string\n\twe don't allow embedded newlines\n\t>>>${printable(rest)}...<<<`
      throw syntaxError(position, problem, 'Close the string with " on the line on which it starts.')
    }
    const inner = this.#source.text.slice(this.#offset + 1, end - 1)
    this.#offset = end
    if (inner.length > STRING_LENGTH_MAX_BYTES || utf8Length(inner) > STRING_LENGTH_MAX_BYTES) {
      const problem = `Double quoted string too long >>>"${printable(inner.slice(0, 19))}...<<<`
      throw syntaxError(position, problem, `A quoted string has at most ${STRING_LENGTH_MAX_BYTES} bytes.`)
    }
    return { kind: 'string', text: inner.replace(/\\(.)/gsu, '$1'), position }
  }

  /** Offset behind the closing quote of the string that starts here; undefined if it is not closed on its line. */
  #endOfString(): number | undefined {
    const { text } = this.#source
    for (let at = this.#offset + 1; at < text.length; at++) {
      const character = text[at]
      if (character === '"') return at + 1
      if (character === '\\') at++
      if (text[at] === '\n') return undefined
    }
    return undefined
  }

  #skipSpace(): void {
    const { text } = this.#source
    for (; this.#offset < text.length; this.#offset++) {
      const character = text[this.#offset]
      if (character === '\n') {
        this.#line++
        this.#lineStart = this.#offset + 1
      } else if (character === '#') {
        const end = text.indexOf('\n', this.#offset)
        this.#offset = (end === -1 ? text.length : end) - 1
      } else if (character !== ' ' && character !== '\t' && character !== '\r') return
    }
  }

  /** Takes what `pattern` (sticky) finds at the current offset. */
  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#offset
    const found = pattern.exec(this.#source.text)?.[0]
    if (found === undefined || found === '') return undefined
    this.#offset += found.length
    return found
  }

  #position(): Position {
    return { file: this.#source.path, line: this.#line, column: this.#offset - this.#lineStart + 1 }
  }
}

export function utf8Length(text: string): number {
  let bytes = 0
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4
  }
  return bytes
}

const syntaxError = (position: Position, problem: string, hint: string): ConfigError => {
  const code: ConfigErrorCode = 'E_CONFIG_SYNTAX'
  return new ConfigError({ code, position, problem, hint })
}
