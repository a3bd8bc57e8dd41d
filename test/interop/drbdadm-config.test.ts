// Goal: drbd.conf means here what it means to drbdadm. Method: the real drbdadm of drbd-utils 9.22 (DRBD 9's command set, and
// its drbdadm-84 for 8.4's) is asked about every file of test/golden/config, as host alice: whether it accepts the file, which
// options and devices it would hand to the driver (`-d up all`), and the same about our own dump of the file. The ranges and
// defaults of the schema are compared with `drbdsetup xml-help`.
//
// A file counts as accepted if one of the two accepts it. Files called exception-* are those where we differ on purpose; the
// comment on top of each says why.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, describe, test } from 'node:test'
import { ConfigError, type Configuration, dumpConfiguration, type Resource } from '../../src/config/index.ts'
import type { OptionSpec, OptionTable } from '../../src/config/option-spec.ts'
import { DISK, NET, OPTIONS } from '../../src/config/schema.ts'
import { CORPUS_FOLDER, CORPUS_HOST, corpus, loadCorpusFile, outcomes } from '../support/config-corpus.ts'

const NINE = ['/usr/sbin/drbdadm', '/sbin/drbdadm'].find(existsSync) ?? ''
const EIGHT = ['/lib/drbd/drbdadm-84', '/usr/lib/drbd/drbdadm-84'].find(existsSync) ?? ''
const TOOLS = [
  { tool: NINE, setup: NINE.replace('drbdadm', 'drbdsetup'), key: 'drbd9' },
  { tool: EIGHT, setup: EIGHT.replace('drbdadm', 'drbdsetup'), key: 'drbd84' },
] as const
const VERSION = '9.22.0'

function drbdadm(tool: string, file: string, ...command: string[]) {
  const env = { ...process.env, __DRBD_NODE__: CORPUS_HOST, DRBD_DONT_WARN_ON_VERSION_MISMATCH: '1' }
  const options = { cwd: join(file, '..'), env, encoding: 'utf8', timeout: 10_000 } as const
  const { status, stdout, stderr } = spawnSync(tool, ['-c', basename(file), ...command], options)
  const said = stderr.replace(/\n {3}found __DRBD_NODE__.*\n.*\n\n/, '').replace(/^sh: .*modinfo.*\n/gm, '')
  return { status, stdout, said }
}

function reasonToSkip(): string | false {
  if (NINE === '' || EIGHT === '') return 'drbd-utils with drbdadm and drbdadm-84 is not installed'
  const { stdout } = spawnSync(NINE, ['--version'], { encoding: 'utf8' })
  return stdout.includes(`DRBDADM_VERSION=${VERSION}`)
    ? false
    : `drbd-utils ${VERSION} is needed, another one is installed`
}

const folder = mkdtempSync(join(tmpdir(), 'coprime-drbdadm-'))
after(() => rmSync(folder, { recursive: true }))
const dumped = join(folder, 'dump.res')
symlinkSync(join(CORPUS_FOLDER, 'parts'), join(folder, 'parts'))

const accepted = (file: string): boolean => outcomes[file]?.drbd9 === 0 || outcomes[file]?.drbd84 === 0
const isException = (file: string): boolean => file.startsWith('exception-')

describe('drbdadm', { skip: reasonToSkip() }, () => {
  test('its verdicts are those that are recorded', () => {
    const actual = corpus.map((file) => {
      const [drbd9, drbd84] = TOOLS.map(({ tool }) => drbdadm(tool, join(CORPUS_FOLDER, file), 'dump').status)
      return [file, { drbd9, drbd84 }]
    })
    assert.deepEqual(Object.fromEntries(actual), outcomes)
  })

  test('it accepts and refuses what we accept and refuse', () => {
    for (const file of corpus) assert.equal(accepted(file) !== isException(file), isAcceptedHere(file), file)
  })

  test('it says the same about what is wrong', () => {
    for (const file of corpus.filter((name) => !accepted(name) && !isException(name))) {
      if (OTHER_WORDS.has(file)) continue
      const theirs = TOOLS.map(({ tool }) => comparable(drbdadm(tool, join(CORPUS_FOLDER, file), 'dump').said))
      const ours = comparable(messageOf(file))
      assert.ok(
        theirs.some((said) => said.startsWith(ours)),
        `${file}\nours:   ${ours}\ntheirs: ${theirs.join('\n        ')}`,
      )
    }
  })

  for (const { tool, key } of TOOLS) {
    for (const file of corpus.filter((name) => outcomes[name]?.[key] === 0 && !isException(name))) {
      test(`${key}: ${file}: the effective options, devices and addresses are ours, and survive our dump`, () => {
        const configuration = loadCorpusFile(file)
        writeFileSync(dumped, dumpConfiguration(configuration))
        const dump = drbdadm(tool, dumped, 'dump')
        assert.equal(dump.status, 0, `${dump.said}\n${dumpConfiguration(configuration)}`)
        const original = drbdadm(tool, join(CORPUS_FOLDER, file), '-d', 'up', 'all')
        if (original.status !== 0) return // nothing for this host, or 9's "ambiguous inheritance"
        assert.deepEqual(calls(drbdadm(tool, dumped, '-d', 'up', 'all').stdout), calls(original.stdout))
        compareWithCalls(configuration, original.stdout, key)
      })
    }
  }

  test('our dump is that of drbdadm 8.4, letter by letter', () => {
    const files = corpus.filter((file) => outcomes[file]?.drbd84 === 0 && !isException(file) && !OTHER_DUMP.has(file))
    for (const file of files) {
      const { stdout } = drbdadm(EIGHT, join(CORPUS_FOLDER, file), 'dump')
      assert.equal(resourcesOf(dumpConfiguration(loadCorpusFile(file))), resourcesOf(stdout), file)
    }
    assert.ok(files.length >= 25, `${files.length} files compared`)
  })

  for (const { setup, key } of TOOLS) {
    test(`${key}: ranges and defaults are those of the driver`, () => {
      const compared = XML_COMMANDS[key].flatMap(([command, ...tables]) => {
        const { stdout } = spawnSync(setup, ['xml-help', command], { encoding: 'utf8' })
        return optionsOfXml(stdout).flatMap(({ name, body }) => {
          const spec = tables.map((table) => specNamed(table, name)).find((found) => found !== undefined)
          if (spec === undefined) {
            assert.ok(NOT_OF_FILES.has(name), `${command} has ${name}, the schema has not`)
            return []
          }
          if (!(DIFFERENT_RANGE[name]?.includes(key) ?? false)) compareSpec(spec, body, `${command} ${name}`)
          return [name]
        })
      })
      assert.ok(compared.length > 45, `${compared.length} options compared`)
    })
  }
})

// ---- acceptance and messages ----------------------------------------------------------------------------------------

function isAcceptedHere(file: string): boolean {
  try {
    loadCorpusFile(file)
    return true
  } catch (error) {
    if (error instanceof ConfigError) return false
    throw error
  }
}

function messageOf(file: string): string {
  try {
    loadCorpusFile(file)
  } catch (error) {
    if (error instanceof ConfigError) return error.message
  }
  return assert.fail(`${file} is accepted`)
}

/** Without the numbers of tokens, folders, indentation, and the line, where 9.22 has lost it. */
const comparable = (text: string): string =>
  text
    .replaceAll(`${CORPUS_FOLDER}/`, '')
    .replace(/ \(TK \d+\)/g, '')
    .replace(/\.res:\d+:/g, '.res:')
    .replace(/^\s+/gm, '')
    .replace(/\s+\.\.\.<<</, '...<<<')
    .trim()

const OTHER_WORDS: ReadonlySet<string> = new Set([
  'refused-byte-order-mark.res', // drbdadm shows the first byte of a character
  'refused-empty-name.res', // and has no place for this message
  'refused-huge-number.res', // to us a number beyond every integer is a number, and too big
])

/** Without the header, global, our own options, and empty lines. */
const resourcesOf = (dump: string): string =>
  dump
    .replaceAll(`${CORPUS_FOLDER}/`, '')
    .replace(/^# \S*\.res\n/, '')
    .replace(/^global \{[^}]*\}\n/m, '')
    .replace(/^skip coprime \{[\s\S]*/m, '')
    .replace(/\n\n+/g, '\n')
    .trim()

const OTHER_DUMP: ReadonlySet<string> = new Set([
  'addresses-odd.res', // a port with a zero in front; it prints sci as ssocks
  'disk-8.4.res', // an obsolete option
  'given-twice.res', // we print the statement that counts, it prints both
  'host-names.res', // it knows no letter case nor domain; and leaves out quotes, so that the dump cannot be read again
  'quoting.res', // the same
  'host-sections.res', // a disk section in a host section: it prints what it would refuse to read
  'precedence-disk.res', // ... and disk sections of volumes in front of the device
  'volumes.res', // ... and the index of metadata without indentation of its own
  'volumes-in-hosts.res',
  'volume-inheritance.res',
  'odd-8.4.res', // ignore-on is lost
  'proxy.res', // indentation
  'resync-after.res', // an unknown name is dropped
  'stacked.res', // a blank at the end of a line
])

// ---- effective values -----------------------------------------------------------------------------------------------

/** The calls of drbdsetup and drbdmeta; of an option given twice, which the tools hand on, the last one counts. */
function calls(stdout: string): string[] {
  return stdout.split('\n').map((line) => {
    const words = line.trim().split(/ (?=--)/)
    const options = new Map(words.slice(1).map((word) => [word.split('=')[0], word.replace(/=0+(?=\d)/, '=')]))
    if (options.has('--protocol')) options.set('--protocol', options.get('--protocol')?.toUpperCase() ?? '')
    options.delete('--use-bmbv') // obsolete: we read and forget it
    const command = (words[0] ?? '').replace(/:0+(?=\d)/g, ':')
    return [command, ...[...options.values()].sort()].join(' ')
  })
}

interface Call {
  readonly command: string
  readonly words: readonly string[]
  readonly options: ReadonlyMap<string, string>
}

function parsedCalls(stdout: string): Call[] {
  return stdout.split('\n').flatMap((line) => {
    const parts = line.trim().split(/ (?=--)/)
    const [tool = '', command = '', ...words] = (parts[0] ?? '').split(' ')
    if (!/drbdsetup/.test(tool)) return []
    const options = parts
      .slice(1)
      .map((part) => [part.slice(2).split('=')[0] ?? '', part.replace(/^[^=]*=/, '')] as const)
    return [{ command, words, options: new Map(options) }]
  })
}

/** What a command of the driver is told must be exactly what is explicit in our value. */
function compareWithCalls({ resources }: Configuration, stdout: string, key: 'drbd9' | 'drbd84'): void {
  const made = parsedCalls(stdout)
  for (const resource of resources.values()) {
    if (resource.local === undefined || resource.unsupported !== undefined) continue
    const of = (command: string) => made.find((call) => call.command === command && call.words[0] === resource.name)
    const where = `resource ${resource.name}`
    const creation = of('new-resource')
    if (/[^\w./-]/.test(resource.name)) continue // the shell's escapes
    // 8.4 knows this host under its exact name only.
    if (
      key === 'drbd84' &&
      !resource.source.hosts.some(({ names }) => names.includes(CORPUS_HOST)) &&
      !isFloating(resource)
    )
      continue
    assert.ok(creation, `${where} is brought up`)
    compareOptions(resource.options.explicit, OPTIONS, creation.options, where)
    const connection = of(key === 'drbd9' ? 'new-peer' : 'connect')
    if (connection !== undefined) compareOptions(netSettings(resource), NET, connection.options, where)
    compareAddresses(resource, (key === 'drbd9' ? of('new-path') : connection)?.words ?? [], key)
    compareVolumes(resource, made)
  }
}

const isFloating = ({ source }: Resource): boolean => source.hosts.some(({ node }) => node.kind === 'floating')

function netSettings({ net }: Resource) {
  const settings = new Map<string, { spelling: string }>(net.explicit)
  // The tool translates the name of a host for its driver, as we do.
  if (settings.get('afterSb0pri')?.spelling.startsWith('discard-node-'))
    settings.set('afterSb0pri', { spelling: net.afterSb0pri })
  return settings
}

function compareAddresses({ local, peer }: Resource, words: readonly string[], key: string): void {
  if (local === undefined || peer === undefined) return
  const shown = ({ family, host, port }: typeof local.address): string =>
    `${family}:${family === 'ipv6' ? `[${host}]` : host}:${port}`
  const plain = (word = ''): string => word.toLowerCase().replaceAll('\\', '').replace(/%eth0/, '')
  const [, ...ends] = words
  const [here, there] = key === 'drbd9' ? ends.slice(1) : ends
  assert.deepEqual([plain(here), plain(there)], [plain(shown(local.address)), plain(shown(peer.address))])
}

function compareVolumes({ local, name }: Resource, made: readonly Call[]): void {
  for (const volume of local?.volumes ?? []) {
    const where = `${name}/${volume.number}`
    const minor = made.find(
      ({ command, words }) => command === 'new-minor' && words[0] === name && words[2] === String(volume.number),
    )
    assert.equal(minor?.words[1], String(volume.minor), where)
    const attach = made.find(({ command, words }) => command === 'attach' && words[0] === String(volume.minor))
    assert.ok(attach, where)
    const isInternal = volume.metaDisk.kind === 'internal'
    const [index, metaPath] = isInternal ? ['internal', volume.disk] : [volume.metaDisk.index, volume.metaDisk.path]
    if (!/[^\w./-]/.test(`${volume.disk}${metaPath}`)) {
      assert.deepEqual(attach.words.slice(1), [volume.disk, metaPath, String(index)], where)
    }
    const peerDevice = made.find(
      ({ command, words }) =>
        command === 'peer-device-options' && words[0] === name && words[2] === String(volume.number),
    )
    const options = new Map([...attach.options, ...(peerDevice?.options ?? [])])
    const settings = new Map<string, { spelling: string }>(volume.diskOptions.explicit)
    // Tools translate the name of a resource into a minor number, or drop a name that they do not know.
    for (const [optionName, settingName] of [['resync-after', 'resyncAfter']] as const) {
      options.delete(optionName)
      settings.delete(settingName)
    }
    options.delete('use-bmbv')
    compareOptions(settings, DISK, options, where)
  }
}

function compareOptions(
  explicit: ReadonlyMap<string, { spelling: string }>,
  table: OptionTable,
  theirs: ReadonlyMap<string, string>,
  where: string,
): void {
  const ours = [...explicit].map(
    ([key, { spelling }]) => [table[key]?.name ?? key, spelling.replace(/[^\w./-]/g, '')] as const,
  )
  const told = [...theirs]
    .filter(([name]) => name !== '_name' && !/^alternate-(peer-)?address /.test(name))
    .map(([name, value]) => [name, value.replace(/[^\w./-]/g, '')] as const)
  const sorted = (pairs: (readonly [string, string])[]): Record<string, string> => Object.fromEntries(pairs.sort())
  assert.deepEqual(letterless(sorted(ours)), letterless(sorted(told)), where)
}

/** 8.4 hands on the protocol in capitals. */
const letterless = (options: Record<string, string>): Record<string, string> =>
  'protocol' in options ? { ...options, protocol: String(options['protocol']).toUpperCase() } : options

// ---- ranges and defaults --------------------------------------------------------------------------------------------

const XML_COMMANDS: Readonly<Record<'drbd9' | 'drbd84', readonly (readonly [string, ...OptionTable[]])[]>> = {
  drbd9: [
    ['new-resource', OPTIONS],
    ['new-peer', NET],
    ['new-minor', DISK],
    ['attach', DISK],
    ['peer-device-options', DISK],
  ],
  drbd84: [
    ['new-resource', OPTIONS],
    ['connect', NET],
    ['attach', DISK],
  ],
}
const NOT_OF_FILES: ReadonlySet<string> = new Set([
  ...['_name', 'set-defaults', 'tentative', 'discard-my-data', 'alternate-address', 'alternate-peer-address'],
])
/** Ours is the wider one of the releases, or the one of a release that is newer than the installed one. */
const DIFFERENT_RANGE: Readonly<Record<string, readonly string[]>> = {
  'sndbuf-size': ['drbd9', 'drbd84'],
  'rcvbuf-size': ['drbd9', 'drbd84'],
  'resync-rate': ['drbd84'],
  'c-max-rate': ['drbd84'],
  'rr-conflict': ['drbd84'],
}

const specNamed = (table: OptionTable, name: string): OptionSpec | undefined =>
  Object.values(table).find((spec) => spec.name === name)

function optionsOfXml(xml: string): { name: string; body: string }[] {
  return [...xml.matchAll(/<option name="([^"]*)"[^>]*>(.*?)<\/option>/gs)].map(([, name = '', body = '']) => ({
    name,
    body,
  }))
}

function compareSpec(spec: OptionSpec, body: string, where: string): void {
  const tag = (name: string): string | undefined => new RegExp(`<${name}>(.*?)</${name}>`, 's').exec(body)?.[1]
  const words = [...body.matchAll(/<(?:handler|symbol)>(.*?)</g)].map(([, word]) => word)
  if (spec.kind === 'number') {
    const theirs = [tag('min'), tag('max'), tag('default')]
    assert.deepEqual([String(spec.min), String(spec.max), String(spec.default)], theirs, where)
    if (spec.words.length > 0) assert.deepEqual([...spec.words].sort(), words.sort(), where)
    const prefix = spec.unit === 'sectors' ? 's' : spec.unit === 'KiB/s' ? 'k' : '1'
    assert.equal(tag('unit_prefix') ?? '1', prefix, where)
  } else if (spec.kind === 'boolean') {
    assert.equal(spec.default ? 'yes' : 'no', tag('default'), where)
  } else if (spec.kind === 'choice') {
    assert.deepEqual([...spec.words], words, where)
  } else assert.ok(spec.kind === 'text', where)
}
