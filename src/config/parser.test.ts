// Goal: errors in DRBD's words with place and suggestion (config-and-tools.md 1.6), warnings, our own options, and that no
// input whatever throws anything but ConfigError. What is accepted at large is compared with drbdadm itself in
// test/interop/drbdadm-config.test.ts, and with its recorded verdicts in corpus.test.ts.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { memoryFiles } from '../../test/support/config-files.ts'
import { ConfigError, type Configuration, formatWarning, loadConfiguration } from './index.ts'

const HOSTS = `
  device /dev/drbd1; disk /dev/vg/r0; meta-disk internal;
  on alice { address 10.0.0.1:7789; }
  on bob { address 10.0.0.2:7789; }
`

const load = (text: string, others: Record<string, string> = {}): Configuration =>
  loadConfiguration('c.conf', memoryFiles({ 'c.conf': text, ...others }), { hostName: 'alice' })

const resource = (text: string): string => `resource r0 {${HOSTS}${text}\n}\n`

function errorOf(text: string, others: Record<string, string> = {}): ConfigError {
  try {
    load(text, others)
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error))
    return error
  }
  assert.fail(`accepted: ${text}`)
}

test('messages in drbdadm’s words', () => {
  const cases: [string, string][] = [
    ['net { pingint 3; }', "c.conf:6: Parse error: 'an option keyword' expected,\n\tbut got 'pingint'"],
    ['net { ping-int 3 }', "c.conf:6: Parse error: ';' expected,\n\tbut got '}' (TK 125)"],
    ['net { ping-int 121; }', "c.conf:6: Parse error: while parsing value ('121')\nfor ping-int. Value is too big."],
    [
      'disk { resync-rate 9G; }',
      "c.conf:6: Parse error: while parsing value ('9G')\nfor resync-rate. Value is too big.",
    ],
    [
      'disk { resync-rate 10MB; }',
      "c.conf:6: Parse error: while parsing value ('10MB')\nfor resync-rate. Value is not a number.",
    ],
    [
      'net { after-sb-2pri foo; }',
      "c.conf:6: Parse error: while parsing value ('foo')\nfor after-sb-2pri. Value is not valid.\n" +
        'Allowed values are: disconnect | call-pri-lost-after-sb | violently-as0p',
    ],
    [
      'net { allow-two-primaries maybe; }',
      "c.conf:6: Parse error: while parsing value ('maybe')\nfor allow-two-primaries. Value is not 'yes' or 'no'.",
    ],
    [
      'net { } net { }',
      "c.conf:6: conflicting use of net section 'r0:net' ...\nc.conf:6: net section 'r0:net' first used here.",
    ],
  ]
  for (const [text, message] of cases) {
    const error = errorOf(resource(`\n${text}`))
    assert.equal(error.message, message)
    assert.equal(error.exitCode, 10)
  }
})

test('place, suggestion, and the line with a caret', () => {
  const error = errorOf(resource('\tnet { timeout 10; pingint 3; }'))
  assert.equal(error.code, 'E_CONFIG_UNKNOWN')
  assert.equal(error.hint, "Did you mean 'ping-int'?")
  assert.deepEqual([error.file, error.line, error.column], ['c.conf', 5, 20])
  assert.equal(
    error.rendered,
    [error.message, '     net { timeout 10; pingint 3; }', '                       ^', error.hint].join('\n'),
  )
})

test('suggestions: sections, statements, words, the section in which an option belongs', () => {
  const cases: [string, RegExp][] = [
    [resource('nett { }'), /'net'/],
    ['resorce r0 { }', /'resource'/],
    ['resource r0 { on alice { adress 1.2.3.4:5; } }', /'address'/],
    [resource('net { on-congestion blok; }'), /'block'/],
    [resource('net { al-extents 127; }'), /belongs in disk/],
    [resource('handlers { fence-pear x; }'), /'fence-peer'/],
    ['resource net { }', /is written "net"/],
    [resource('net { max-epoch-size 20001; }'), /1 to 20000/],
    ['skip coprime { rO { } }\nresource r0 { }', /'r0'/],
    [resource('net { coordinator alicee; }'), /'alice'/],
    [resource('net { nbd { listn unix /x; } }'), /'listen'/],
  ]
  for (const [text, hint] of cases) assert.match(errorOf(text).hint, hint)
})

test('a secret never appears in a message', () => {
  const error = errorOf(resource(`net { shared-secret "${'hunter2'.repeat(10)}"; }`))
  assert.doesNotMatch(error.message, /hunter2/)
  assert.match(error.message, /max len: 63/)
})

test('control characters of a file do not reach the terminal', () => {
  const error = errorOf(resource('net { \u001b[31mred\u0007 3; }'))
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  assert.doesNotMatch(error.rendered, /[\u0000-\u0008\u000b-\u001f]/)
})

test('one warning for each option without effect and file', () => {
  const files = { 'b.conf': 'common { net { tcp-cork no; } }\n' }
  const text = `include b.conf;\n${resource('net { tcp-cork yes; tcp-cork no; use-rle no; }')}`
  const ignored = load(text, files).warnings.filter(({ code }) => code === 'ignored-option')
  assert.deepEqual(ignored.map(formatWarning), [
    "b.conf:1: 'tcp-cork' has no effect here: packets of one turn always leave together.",
    "c.conf:6: 'tcp-cork' has no effect here: packets of one turn always leave together.",
  ])
})

test('flushes cannot be switched off: what a battery keeps for DRBD stands in the page cache here', () => {
  const { warnings } = load(resource('disk { no-disk-flushes; no-md-flushes; disk-barrier; }'))
  const ignored = warnings.filter(({ code }) => code === 'ignored-option').map(formatWarning)
  const reason = 'writes stand in the page cache, which no battery keeps: flushes are always made.'
  assert.deepEqual(
    ignored.map((line) => line.replace(/^c\.conf:\d+: /, '')),
    [
      `'disk-flushes' has no effect here: ${reason}`,
      `'md-flushes' has no effect here: ${reason}`,
      "'disk-barrier' has no effect here: write order is always kept by flushing.",
    ],
  )
})

test('the end of the file closes a resource, with a warning, and nothing else', () => {
  const { warnings, resources } = load(`resource r0 {${HOSTS}net { ping-int 3; }`)
  assert.deepEqual(
    warnings.map(({ code }) => code),
    ['unclosed-section'],
  )
  assert.equal(resources.get('r0')?.net.pingIntSeconds, 3)
  assert.match(errorOf(`resource r0 {${HOSTS}net { ping-int 3;`).message, /but got ''/)
})

test('files: includes relative to the file, sorted, once; loops end', () => {
  const files = {
    'etc/main.conf': 'global { usage-count no; }\ninclude "d/*.res";\ninclude d/b.res;\n',
    'etc/d/b.res': 'include a.res;\nresource b { }\ninclude "../main.conf";\n',
    'etc/d/a.res': 'resource a { }\ninclude b.res;\n',
  }
  const configuration = loadConfiguration('etc/main.conf', memoryFiles(files), { hostName: 'alice' })
  assert.deepEqual([...configuration.resources.keys()], ['a', 'b'])
  assert.deepEqual(configuration.files, ['etc/main.conf', 'etc/d/a.res', 'etc/d/b.res'])
  assert.deepEqual(configuration.resources.get('b')?.definedAt, { file: 'etc/d/b.res', line: 2 })
})

test('files that cannot be read', () => {
  const error = errorOf('\ninclude nofile.conf;')
  assert.equal(error.message, "c.conf:2: Failed to open include file 'nofile.conf'.")
  assert.deepEqual([error.code, error.exitCode], ['E_CONFIG_FILE', 10])
  assert.throws(() => loadConfiguration('gone', memoryFiles({}), { hostName: 'a' }), {
    code: 'E_CONFIG_FILE',
    exitCode: 20,
  })
  assert.equal(load('include "nothing*.conf";').resources.size, 0)
  const broken = { ...memoryFiles({ c: 'include "*";' }), glob: () => assert.fail('no permission') }
  assert.throws(() => loadConfiguration('c', broken, { hostName: 'a' }), { code: 'E_CONFIG_FILE' })
})

test('bounds: length of the files, hosts times volumes', () => {
  assert.equal(errorOf(`#${' '.repeat(9 * 1024 * 1024)}`).code, 'E_CONFIG_LIMIT')
  const volumes = Array.from({ length: 3000 }, (_, n) => `volume ${n} { device minor ${n}; disk /d${n}; }`).join('\n')
  const hosts = Array.from({ length: 100 }, (_, n) => `on h${n} { address 10.0.0.${n}:1; }`).join('\n')
  assert.equal(errorOf(`resource r0 { ${volumes} ${hosts} }`).code, 'E_CONFIG_LIMIT')
  assert.equal(errorOf(`resource r0 { on ${'h '.repeat(100)} { } }`).code, 'E_CONFIG_LIMIT')
})

// ---- nothing but ConfigError ----------------------------------------------------------------------------------------

const WORDS = [
  ...['global', 'common', 'resource', 'r0', '{', '}', ';', ':', '[', ']', '"', '"a b"', '#', '\n', 'skip', 'coprime'],
  ...['include', '"*.conf"', 'c.conf', 'on', 'alice', 'bob', 'floating', 'stacked-on-top-of', 'net', 'disk', 'options'],
  ...['startup', 'handlers', 'syncer', 'proxy', 'inside', 'outside', 'plugin', 'volume', '0', '1', '7789', 'device'],
  ...['minor', '/dev/drbd1', 'meta-disk', 'internal', 'address', 'ipv6', '10.0.0.1', 'fd01::1', 'connection', 'path'],
  ...['host', 'port', 'via', 'connection-mesh', 'hosts', 'node-id', 'template-file', 'protocol', 'C', 'ping-int', '3'],
  ...['yes', 'no-tcp-cork', 'fence-peer', 'ignore-on', 'nbd', 'listen', 'unix', 'tcp', 'resync-rate', '10M', 'no'],
]
const LINES = [
  ...[
    'resource r0 {',
    '}',
    'net {',
    'ping-int 3;',
    'on alice {',
    'address 10.0.0.1:7789;',
    'device minor 1;',
    'disk /a;',
  ],
  ...['on bob {', 'address ipv6 [fd01::1]:1;', 'volume 0 {', 'disk {', 'node-id 0;', 'node-id 1;', 'connection {'],
  ...['host alice;', 'host bob port 3;', 'connection-mesh { hosts alice bob; }', 'skip coprime {', 'r0 {', 'common {'],
  ...[
    'nbd { listen unix /x; }',
    'resource r1 {',
    'stacked-on-top-of r0 {',
    'floating 127.0.0.1:1;',
    'meta-disk /m[1];',
  ],
  ...['template-file c.conf;', 'include "c.conf";', 'include "*";', 'proxy {', 'handlers {', 'fence-peer "x";'],
]

/** Loads, and if that works reads the dump of it again, too. */
function survives(text: string): void {
  try {
    load(text, { 'd.conf': text })
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    assert.ok(error.line >= 1 && error.column >= 1 && error.message.startsWith(`${error.file}:`))
    assert.ok(error.rendered.startsWith(error.message))
  }
}

const runs = process.env['COPRIME_LONG'] === '1' ? 20_000 : 400

test('random characters', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 300 }), survives), { numRuns: runs })
})

test('random words of the language', () => {
  const text = fc.array(fc.constantFrom(...WORDS), { maxLength: 60 }).map((words) => words.join(' '))
  fc.assert(fc.property(text, survives), { numRuns: runs })
})

test('random statements of the language', () => {
  const text = fc.array(fc.constantFrom(...LINES), { maxLength: 40 }).map((lines) => lines.join('\n'))
  fc.assert(fc.property(text, survives), { numRuns: runs })
})

test('a valid file with random damage', () => {
  const whole = `global { usage-count no; }\n${resource('net { ping-int 3; shared-secret "a\\"b"; } disk { resync-rate 3M; }')}`
  const damage = fc.tuple(fc.nat(whole.length), fc.nat(20), fc.string({ unit: 'binary', maxLength: 5 }))
  fc.assert(
    fc.property(damage, ([at, length, inserted]) => survives(whole.slice(0, at) + inserted + whole.slice(at + length))),
    { numRuns: runs },
  )
})

test('deep and long input', () => {
  const many = 200_000
  for (const text of [
    '{'.repeat(many),
    'skip { '.repeat(many),
    `skip ${'{'.repeat(many)}`,
    `skip ${'{'.repeat(many)}${'}'.repeat(many)}`,
    'resource r0 {'.repeat(many),
    `"${'\\'.repeat(many)}`,
    `resource r0 { on ${'a '.repeat(many)}`,
    ' '.repeat(4 * many),
    '#\n'.repeat(many),
    `skip coprime {${' r0 { '.repeat(many)}`,
    `resource r0 { ${'volume 0 { } '.repeat(many)} }`,
    `resource r0 { ${Array.from({ length: 50_000 }, (_, n) => `volume ${n} { device minor ${n}; }`).join(' ')} }`,
    Array.from({ length: 50_000 }, (_, n) => `resource r${n} { }`).join('\n'),
  ]) {
    survives(text)
  }
})
