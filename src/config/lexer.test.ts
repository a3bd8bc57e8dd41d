// Goal: tokens as config-and-tools.md 1.2 has them. Method: texts in, kinds and texts out.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigError } from './config-error.ts'
import { Lexer, utf8Length } from './lexer.ts'

function tokens(text: string): string[] {
  const lexer = new Lexer({ path: 'c.conf', text })
  const found: string[] = []
  for (let token = lexer.next(); token.kind !== 'end'; token = lexer.next()) found.push(`${token.kind} ${token.text}`)
  return found
}

test('words, numbers, addresses and punctuation', () => {
  assert.deepEqual(tokens('resource"r0"{a/b._-1:2;[3]}'), [
    'word resource',
    'string r0',
    'punctuation {',
    'word a/b._-1',
    'punctuation :',
    'number 2',
    'punctuation ;',
    'punctuation [',
    'number 3',
    'punctuation ]',
    'punctuation }',
  ])
  assert.deepEqual(tokens('12345678 123456789 10K 10k 5s 1.2.3.4 1.2.3 999.0.0.1 1.2.3.4x'), [
    'number 12345678',
    'word 123456789',
    'number 10K',
    'word 10k',
    'number 5s',
    'address 1.2.3.4',
    'word 1.2.3',
    'address 999.0.0.1',
    'word 1.2.3.4x',
  ])
  assert.deepEqual(tokens('a+b 😀'), ['word a', 'other +', 'word b', 'other 😀'])
})

test('white space and comments', () => {
  assert.deepEqual(tokens(' \t\r\n# a { comment\r\nx # to the end'), ['word x'])
  assert.deepEqual(tokens('a // b'), ['word a', 'word //', 'word b'])
  assert.deepEqual(tokens('\f'), ['other \f'])
})

test('strings: escapes, length, line', () => {
  assert.deepEqual(tokens(String.raw`"a\"b\\c\d # {"`), ['string a"b\\cd # {'])
  assert.equal(tokens(`"${'x'.repeat(255)}"`)[0]?.length, 'string '.length + 255)
  for (const text of [`"${'x'.repeat(256)}"`, `"${'ä'.repeat(128)}"`, '"abc', '"abc\n"', '"abc\\\n"', '"abc\\']) {
    assert.throws(() => tokens(text), ConfigError, text)
  }
})

test('a bare word has at most 128 characters', () => {
  assert.equal(tokens('a'.repeat(128)).length, 1)
  assert.throws(() => tokens(`\n  ${'a'.repeat(129)}`), {
    name: 'ConfigError',
    code: 'E_CONFIG_SYNTAX',
    message: 'c.conf:2: Token too long >>>aaaaaaaaaaaaaaaaaaaa...<<<',
    line: 2,
    column: 3,
  })
})

test('positions count lines and columns from 1', () => {
  const lexer = new Lexer({ path: 'c.conf', text: 'a\n\t"b" # c\n\n  d' })
  const positions: string[] = []
  for (let token = lexer.next(); token.kind !== 'end'; token = lexer.next()) {
    positions.push(`${token.text} ${token.position.line}:${token.position.column}`)
  }
  assert.deepEqual(positions, ['a 1:1', 'b 2:2', 'd 4:3'])
})

test('an IPv6 address is read on demand', () => {
  const read = (text: string): string | undefined => {
    const lexer = new Lexer({ path: 'c.conf', text })
    lexer.next()
    return lexer.readIpv6()?.text
  }
  for (const address of ['fd01::1', '::', '::ffff:1.2.3.4', 'fe80::1%eth0', '1:2:3:4:5:6:7:8:9']) {
    assert.equal(read(`[${address}]`), address)
  }
  for (const text of ['zz::1', '1', ']', 'a:b', '']) assert.equal(read(`[${text}`), undefined, text)
})

test('a skip block ends at its brace, not at one in a string or a comment', () => {
  const after = (text: string): string | undefined => {
    const lexer = new Lexer({ path: 'c.conf', text })
    lexer.next()
    return lexer.skipBlock() ? `${lexer.peek().text} ${lexer.peek().position.line}` : undefined
  }
  assert.equal(after('{ { } @@ } x'), 'x 1')
  assert.equal(after('{ "}" # }\n "a\\"}" } x'), 'x 2')
  assert.equal(after('{ " }\n } x'), 'x 2') // a quote that nothing closes hides the rest of its line
  assert.equal(after('{ " } x'), 'x 1') // but not at the end of the file
  assert.equal(after('{ { } '), undefined)
})

test('bytes of UTF-8', () => {
  for (const text of ['', 'a', 'ä', '€', '😀', 'aä€😀'])
    assert.equal(utf8Length(text), new TextEncoder().encode(text).length)
})
