// Goal: the tree keeps its own rules: who imports whom, how long a file may be, nothing unfinished, nothing of the machine that
// it was made on. docs/architecture.md says why the folders are apart; the linter holds the same rules for values where it can,
// this test also those for types.
// Method: read every file that .gitignore does not leave out; simple scans, no parser.

import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { describe, it } from 'node:test'
import { repositoryRoot } from '../support/root.ts'

const LINES_MAX = 900

/** Folder -> what it may import: folders, `type:` = types only, `node:`, `npm:`. Its own files always. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  base: [],
  wire: ['base'],
  meta: ['base'],
  config: ['base'],
  // Of the ports and the API only the words: the runtime stands above the engine.
  engine: ['base', 'wire', 'meta', 'type:runtime'],
  nbd: ['base', 'wire', 'type:runtime'],
  runtime: ['base', 'wire', 'meta', 'engine', 'nbd'],
  adapters: ['base', 'nbd', 'type:wire', 'type:runtime', 'node:'],
  control: ['base', 'config', 'type:runtime', 'node:', 'npm:'],
  // Commands that start something (daemon, lab), and those that work on a disk without a daemon (create-md, dump-md, gi).
  cli: ['base', 'meta', 'config', 'runtime', 'control', 'daemon', 'node:', 'npm:'],
  daemon: ['base', 'wire', 'meta', 'config', 'engine', 'nbd', 'runtime', 'adapters', 'control', 'node:', 'npm:'],
  dashboard: ['type:control', 'npm:'],
  sim: ['base', 'wire', 'meta', 'config', 'engine', 'nbd', 'runtime'],
}
/** The one file of the simulator that touches the machine. */
const MAY_ALSO_IMPORT: Readonly<Record<string, readonly string[]>> = { 'src/sim/main.ts': ['node:'] }

/** Exported, not used by the program, and right so. */
const UNUSED_ALLOWED: readonly { readonly path: RegExp; readonly name?: RegExp; readonly why: string }[] = [
  { path: /^src\/wire\/\w+\/constants\.ts$/, why: 'the numbers of a protocol are listed in full' },
  { path: /^src\/meta\/superblock\.ts$/, name: /^MDF_/, why: 'the flags of the superblock are listed in full' },
  { path: /^src\/meta\/dump\.ts$/, why: 'the text of dump-md is what the tests hold against drbdmeta' },
  {
    path: /^src\/engine\/state-rules\.ts$/,
    name: /^(REQUEST_|FENCING_|hardTransition|needsPeerConsent)/,
    why: 'the tables of wire-protocol.md 9.5 to 9.7 are there in full; some requests are not made yet',
  },
  {
    path: /^src\/config\/index\.ts$/,
    name: /^missingLocalAddress$/,
    why: 'the check of drbdadm; a busy or foreign address is found by listening',
  },
  { path: /^src\/sim\/model-replica\.ts$/, why: 'the simulator is tested on it before the real replica runs there' },
]

const PURE = /^src\/(engine|wire|meta|sim)\//
const TEXT = /\.(ts|mjs|js|json|md|res|conf|yml|yaml|txt|html|css)$|^\.[a-z]+(\/|$)|^[A-Z]+$/

interface SourceFile {
  readonly path: string
  readonly text: string
}

/** What .gitignore leaves; not asked of git, which may not be installed, or not own the folder. */
function filesOfTheTree(folder = ''): string[] {
  return readdirSync(join(repositoryRoot, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    const name = entry.isDirectory() ? `${entry.name}/` : entry.name
    if (entry.name === '.git' || ignored.some((pattern) => pattern.test(name))) return []
    return entry.isDirectory() ? filesOfTheTree(path) : [path]
  })
}

/** Lines of .gitignore: names with stars, those of folders with a slash at the end. */
const ignored = readFileSync(join(repositoryRoot, '.gitignore'), 'utf8')
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => new RegExp(`^${line.replaceAll('.', '\\.').replaceAll('*', '.*')}$`))

const paths = filesOfTheTree()
const read = (path: string): SourceFile => ({ path, text: readFileSync(join(repositoryRoot, path), 'utf8') })
const texts = paths.filter((path) => TEXT.test(path)).map(read)
const code = texts.filter(({ path }) => /^(src|test|scripts)\/.*\.ts$/.test(path))
const isTest = (path: string): boolean => path.endsWith('.test.ts')
const program = code.filter(({ path }) => !path.startsWith('test/') && !isTest(path))

/** No line of the report is worth much without the others. */
function assertNone(found: readonly string[], what: string): void {
  assert.ok(found.length === 0, `${what}:\n  ${found.join('\n  ')}\n`)
}

interface Import {
  readonly target: string
  readonly typeOnly: boolean
}

function importsOf({ text }: SourceFile): Import[] {
  const imports: Import[] = []
  for (const match of text.matchAll(/^(?:import|export)\s+(type\s+)?([^'";]*?)\s*from\s+'([^']+)'/gm)) {
    const [, type, names = '', target = ''] = match
    const listed = names.trim().startsWith('{') ? names.replace(/[{}]/g, '').split(',') : [names]
    const typeOnly = type !== undefined || listed.every((name) => name.trim() === '' || name.trim().startsWith('type '))
    imports.push({ target, typeOnly })
  }
  for (const match of text.matchAll(/^import\s+'([^']+)'|\bimport\('([^']+)'\)/gm))
    imports.push({ target: match[1] ?? match[2] ?? '', typeOnly: false })
  return imports
}

/** The folder of an import as the table names it. */
function folderOf(from: string, target: string): string {
  if (target.startsWith('node:')) return 'node:'
  if (!target.startsWith('.')) return 'npm:'
  const [top = '', folder = ''] = normalize(join(dirname(from), target)).split('/')
  return top === 'src' ? folder : top
}

describe('who imports whom', () => {
  it('every folder of src stands in the table', () => {
    const folders = new Set(
      program.filter(({ path }) => path.startsWith('src/')).map(({ path }) => path.split('/')[1] ?? ''),
    )
    assertNone(
      [...folders].filter((folder) => !(folder in MAY_IMPORT)),
      'folders without a rule',
    )
  })

  it('files of src import what the table of their folder allows', () => {
    const wrong: string[] = []
    for (const file of program.filter(({ path }) => path.startsWith('src/'))) {
      const own = file.path.split('/')[1] ?? ''
      const allowed = [...(MAY_IMPORT[own] ?? []), ...(MAY_ALSO_IMPORT[file.path] ?? [])]
      for (const { target, typeOnly } of importsOf(file)) {
        const folder = folderOf(file.path, target)
        if (folder === own || allowed.includes(folder) || (typeOnly && allowed.includes(`type:${folder}`))) continue
        wrong.push(`${file.path}: ${typeOnly ? 'types' : 'values'} of ${target}`)
      }
    }
    assertNone(wrong, 'imports against the table')
  })

  it('the scan sees imports', () => {
    const engine = program.find(({ path }) => path === 'src/engine/engine.ts')
    assert.ok(engine !== undefined)
    const imports = importsOf(engine).map(({ target, typeOnly }) => `${folderOf(engine.path, target)} ${typeOnly}`)
    for (const expected of ['base false', 'runtime true', 'wire false', 'engine false', 'engine true'])
      assert.ok(imports.includes(expected), expected)
  })

  it('relative imports name a file with its suffix', () => {
    const wrong = code.flatMap((file) =>
      importsOf(file)
        .filter(({ target }) => target.startsWith('.') && !existsSync(join(repositoryRoot, dirname(file.path), target)))
        .filter(({ target }) => !target.endsWith('.mjs'))
        .map(({ target }) => `${file.path}: ${target}`),
    )
    assertNone(wrong, 'imports of files that do not exist')
  })
})

describe('files', () => {
  it(`are not longer than ${LINES_MAX} lines`, () => {
    const long = code.map(({ path, text }) => [path, text.split('\n').length - 1] as const)
    assertNone(
      long.filter(([, lines]) => lines > LINES_MAX).map(([path, lines]) => `${path}: ${lines} lines`),
      'look for the second subject in them',
    )
  })

  it('engine, wire, meta and sim open with what they are for', () => {
    const silent = code.filter(({ path, text }) => PURE.test(path) && !/^\/\/ \S.{20}/.test(text))
    assertNone(
      silent.map(({ path }) => path),
      'files without an opening comment',
    )
  })

  it('nothing is left for later', () => {
    // Put together here, so that this file does not find itself.
    const mark = new RegExp(`\\b(${['TO' + 'DO', 'FIX' + 'ME', 'X' + 'XX'].join('|')})\\b`)
    const found = texts
      .filter(({ path }) => !path.startsWith('test/golden/') && path !== 'package-lock.json')
      .flatMap(({ path, text }) =>
        text.split('\n').flatMap((line, i) => (mark.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : [])),
      )
    assertNone(found, 'marks of unfinished work')
  })
})

describe('exports', () => {
  it('are used by the program, not by tests alone', () => {
    const bare = program.map(({ path, text }) => ({ path, text: text.replace(/\/\/[^\n]*|\/\*[\s\S]*?\*\//g, '') }))
    const uses = new Map<string, number>()
    for (const { text } of bare)
      for (const [word] of text.matchAll(/\b[A-Za-z_]\w*\b/g)) uses.set(word, (uses.get(word) ?? 0) + 1)
    const unused: string[] = []
    for (const { path, text } of bare) {
      for (const match of text.matchAll(
        /^export (?:abstract |async )?(?:const|let|function|class|interface|type) (\w+)/gm,
      )) {
        const name = match[1] ?? ''
        if ((uses.get(name) ?? 0) > 1) continue
        if (UNUSED_ALLOWED.some((rule) => rule.path.test(path) && (rule.name?.test(name) ?? true))) continue
        unused.push(`${path}: ${name}`)
      }
    }
    assertNone(unused, 'exported and used nowhere outside of tests')
  })

  it('the list of exceptions has no dead entry', () => {
    for (const { path, why } of UNUSED_ALLOWED)
      assert.ok(
        program.some((file) => path.test(file.path)),
        why,
      )
  })
})

describe('nothing of the machine that it was made on', () => {
  it('package-lock.json names no place that packages come from', () => {
    const lock = readFileSync(join(repositoryRoot, 'package-lock.json'), 'utf8')
    assert.doesNotMatch(lock, /"resolved"/)
    assert.match(lock, /"integrity"/)
  })

  it('package-lock.json has an entry for each optional package of every platform, or npm ci would refuse it', () => {
    const lock = JSON.parse(readFileSync(join(repositoryRoot, 'package-lock.json'), 'utf8')) as {
      readonly packages: Readonly<Record<string, { readonly optionalDependencies?: Readonly<Record<string, string>> }>>
    }
    const wanted = Object.values(lock.packages).flatMap((entry) => Object.keys(entry.optionalDependencies ?? {}))
    assert.ok(wanted.length > 0)
    assertNone(
      wanted.filter((name) => !(`node_modules/${name}` in lock.packages)),
      'packages without an entry',
    )
  })

  it('no absolute path of a machine, no host of a package registry', () => {
    const home = new RegExp(`(?<![\\w.~-])/(?:${['home', 'root', 'Users', 'work'].join('|')})/[\\w.]`)
    const registry = new RegExp(
      ['registry\\.\\w+\\.(?:org|com)', 'npm' + 'js\\.(?:org|com)', 'artifac' + 'tory'].join('|'),
    )
    const found = texts.flatMap(({ path, text }) =>
      text
        .split('\n')
        .flatMap((line, i) =>
          home.test(line) || registry.test(line) ? [`${path}:${i + 1}: ${line.trim().slice(0, 120)}`] : [],
        ),
    )
    assertNone(found, 'paths and hosts that mean nothing elsewhere')
  })
})
