// `npm run sim:mutants [-- --seeds N] [--jobs J] [--order NAME] [--only NAME,NAME] [--first SEED]`: does the simulator find
// mistakes? Each mutant (scripts/mutants) is compiled from a patched copy of the sources and hunted until a checker finds something,
// under the order of writes that it belongs to: with the scenario or plan that it names, else with random stories, seed by seed, and
// then with all named scenarios. A mutant that survives, or a patch that no longer applies, is a failure. What finds a mutant must
// hold without it: a seed that fails either way does not count.
//
// The copy is one folder under the system's temporary folder; for each mutant the files that it patches are replaced, compiled
// (the compiler keeps what has not changed) and put back.

import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { formatTable, print, say } from './console.ts'
import { mutantsByOrder } from './mutants/catalogue.ts'
import type { Edit, Mutant } from './mutants/mutant.ts'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const FOLDERS = ['base', 'wire', 'meta', 'engine', 'nbd', 'runtime', 'sim'] as const
/** A mutant may run in circles; the simulator ends such a world itself, but not if the engine never returns. */
const RUN_MS_MAX = 300_000
/** Of each named scenario. */
const NAMED_SEEDS = '4'
/** What was compiled without a mutant. */
const ORIGINAL = 'original'

interface Outcome {
  readonly mutant: Mutant
  readonly result: 'caught' | 'survived' | 'does not apply' | 'does not compile' | 'broken'
  readonly checker: string
  readonly seed: number | undefined
  readonly detail: string
}

interface Options {
  readonly seeds: number
  readonly first: number
  readonly jobs: number
  readonly order: string | undefined
  readonly only: ReadonlySet<string> | undefined
}

class Workshop {
  readonly #folder: string

  constructor() {
    this.#folder = mkdtempSync(join(tmpdir(), 'coprime-mutants-'))
    const isSource = (path: string): boolean => !path.endsWith('.test.ts')
    for (const name of FOLDERS) {
      cpSync(join(root, 'src', name), join(this.#folder, 'src', name), { recursive: true, filter: isSource })
    }
    symlinkSync(join(root, 'node_modules'), join(this.#folder, 'node_modules'))
    writeFileSync(join(this.#folder, 'package.json'), '{ "type": "module" }')
    const options = { rootDir: '.', outDir: 'dist', tsBuildInfoFile: 'dist/.tsbuildinfo', sourceMap: false }
    const lax = { noUnusedLocals: false, noUnusedParameters: false }
    const config = {
      extends: join(root, 'tsconfig.json'),
      compilerOptions: { ...options, ...lax },
      include: ['src/**/*.ts'],
    }
    writeFileSync(join(this.#folder, 'tsconfig.json'), JSON.stringify(config))
  }

  /** The compiler's complaints; empty: none. The result is kept, to compare the mutants with. */
  compileOriginal(): string {
    const complaints = this.compile()
    if (complaints === '') cpSync(join(this.#folder, 'dist'), join(this.#folder, ORIGINAL), { recursive: true })
    return complaints
  }

  compile(): string {
    const tsc = join(root, 'node_modules', '.bin', 'tsc')
    const { status, stdout } = spawnSync(tsc, ['-p', this.#folder], { encoding: 'utf8' })
    return status === 0 ? '' : stdout
  }

  /** Applies all edits, or none and returns what is wrong. */
  patch(edits: readonly Edit[]): { readonly restore: () => void } | { readonly problem: string } {
    const originals = new Map<string, string>()
    const texts = new Map<string, string>()
    for (const { file, find, replace } of edits) {
      const path = join(this.#folder, 'src', file)
      const original = originals.get(path) ?? readFileSync(path, 'utf8')
      originals.set(path, original)
      const text = texts.get(path) ?? original
      const places = text.split(find).length - 1
      if (places !== 1)
        return { problem: `${file}: the text stands there ${places} times: ${find.trim().split('\n')[0]}` }
      texts.set(
        path,
        text.replace(find, () => replace),
      )
    }
    for (const [path, text] of texts) writeFileSync(path, text)
    return {
      restore: () => {
        for (const [path, text] of originals) writeFileSync(path, text)
      },
    }
  }

  /** Runs the simulator as compiled last, or without any mutant. */
  simulate(of: 'dist' | typeof ORIGINAL, args: readonly string[]): { status: number | null; output: string } {
    const main = join(this.#folder, of, 'src', 'sim', 'main.js')
    const { status, stdout } = spawnSync(process.execPath, [main, ...args], {
      encoding: 'utf8',
      timeout: RUN_MS_MAX,
      maxBuffer: 64 * 1024 * 1024,
    })
    return { status, output: stdout }
  }

  close(): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

function tryMutant(workshop: Workshop, order: string, mutant: Mutant, options: Options): Outcome {
  const nothing = { mutant, checker: '', seed: undefined, detail: '' }
  const patched = workshop.patch(mutant.edits)
  if ('problem' in patched) return { ...nothing, result: 'does not apply', detail: patched.problem }
  try {
    const complaints = workshop.compile()
    if (complaints !== '') return { ...nothing, result: 'does not compile', detail: complaints }
    return hunt(workshop, order, mutant, options)
  } finally {
    patched.restore()
  }
}

/** Until something fails that does not fail without the mutant, too: random stories, then the named scenarios. */
function hunt(workshop: Workshop, order: string, mutant: Mutant, options: Options): Outcome {
  const outcome = huntOn(workshop, order, mutant, options)
  if (outcome.result !== 'survived' || mutant.by !== undefined) return outcome
  return huntByName(workshop, order, mutant, options) ?? outcome
}

function huntByName(workshop: Workshop, order: string, mutant: Mutant, { jobs }: Options): Outcome | undefined {
  const { output } = workshop.simulate('dist', ['--at-most', NAMED_SEEDS, '--order', order, '--jobs', `${jobs}`])
  const found = /^FAILED ([a-z0-9-]+): checker ([a-z-]+), seed (\d+).*\n(.*)/m.exec(output)
  if (found === null) return undefined
  const [, scenario = '', checker = '', seed = '', detail = ''] = found
  const again = ['--scenario', scenario, '--seed', seed, '--order', order]
  if (workshop.simulate(ORIGINAL, again).status !== 0) return undefined
  return { mutant: { ...mutant, by: { scenario } }, result: 'caught', checker, seed: Number(seed), detail }
}

function huntOn(workshop: Workshop, order: string, mutant: Mutant, { seeds, first, jobs }: Options): Outcome {
  const nothing = { mutant, checker: '', seed: undefined, detail: '' }
  const { by } = mutant
  for (let from = first; from < first + seeds; ) {
    const what = by !== undefined ? argsOf(by) : ['--seeds', `${first + seeds - from}`, '--first', `${from}`]
    const { status, output } = workshop.simulate('dist', [...what, '--order', order, '--jobs', `${jobs}`])
    if (status === 0) return { ...nothing, result: 'survived' }
    const found = /^FAILED .*: checker ([a-z-]+), (?:seed (\d+)|.*)/m.exec(output)
    if (found === null) return { ...nothing, result: 'broken', detail: output.slice(-2000) }
    const [line, checker = '', text] = found
    const seed = text === undefined ? undefined : Number(text)
    const detail = output.slice(output.indexOf(line) + line.length + 1).split('\n')[0] ?? ''
    const scenario = by !== undefined && 'scenario' in by ? by.scenario : 'random-story'
    const again = seed === undefined ? [...what, '--jobs', `${jobs}`] : ['--scenario', scenario, '--seed', `${seed}`]
    if (workshop.simulate(ORIGINAL, [...again, '--order', order]).status === 0)
      return { mutant, result: 'caught', checker, seed, detail }
    if (by !== undefined || seed === undefined) return { ...nothing, result: 'broken', detail: 'fails without it, too' }
    say(`${mutant.name}: seed ${seed} fails without it, too`)
    from = seed + 1
  }
  return { ...nothing, result: 'survived' }
}

const argsOf = (by: NonNullable<Mutant['by']>): string[] =>
  'scenario' in by ? ['--scenario', by.scenario] : ['--explore', by.explore]

function parse(args: readonly string[]): Options {
  const value = (name: string): string | undefined => {
    const at = args.indexOf(name)
    return at < 0 ? undefined : args[at + 1]
  }
  const only = value('--only')
  return {
    seeds: Number(value('--seeds') ?? 500),
    first: Number(value('--first') ?? 1),
    jobs: Number(value('--jobs') ?? 0),
    order: value('--order'),
    only: only === undefined ? undefined : new Set(only.split(',')),
  }
}

function report(outcomes: readonly Outcome[], first: number): void {
  const rows = outcomes.map(({ mutant, result, checker, seed, detail }) => {
    const where = mutant.by === undefined ? 'random' : 'scenario' in mutant.by ? mutant.by.scenario : mutant.by.explore
    const took = seed === undefined || mutant.by !== undefined ? '' : `${seed - first + 1}`
    return [mutant.name, result, checker, where, seed === undefined ? '' : `${seed}`, took, detail.slice(0, 70)]
  })
  for (const line of formatTable([['mutant', 'result', 'checker', 'by', 'seed', 'seeds', 'found'], ...rows], [4, 5])) {
    print(line)
  }
}

function main(): number {
  const options = parse(process.argv.slice(2))
  const workshop = new Workshop()
  try {
    const complaints = workshop.compileOriginal()
    if (complaints !== '') throw new Error(`the sources do not compile without a mutant:\n${complaints}`)
    let failed = false
    for (const [order, all] of mutantsByOrder) {
      if (options.order !== undefined && order !== options.order) continue
      const chosen = all.filter(({ name }) => options.only === undefined || options.only.has(name))
      if (chosen.length === 0) continue
      const outcomes = chosen.map((mutant) => {
        const outcome = tryMutant(workshop, order, mutant, options)
        say(`${mutant.name}: ${outcome.result} ${outcome.checker} ${outcome.seed ?? ''}`)
        return outcome
      })
      print()
      print(
        `${order}: ${outcomes.filter(({ result }) => result === 'caught').length} of ${outcomes.length} mutants caught`,
      )
      report(outcomes, options.first)
      for (const { mutant, result, detail } of outcomes) {
        if (result === 'caught') continue
        failed = true
        print(`${mutant.name} (${mutant.what}): ${result}\n${detail}`)
      }
    }
    return failed ? 1 : 0
  } finally {
    workshop.close()
  }
}

process.exitCode = main()
