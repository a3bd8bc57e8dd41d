// The `sim` command without the machine it runs on: arguments in, lines and an exit code out.
//
//   sim [--at-most N]                                   each named scenario, with as many seeds as it asks for, or N
//   sim --seeds N [--first SEED] [--jobs J]             N seeds of random stories under each order, shared out among J workers
//   sim --scenario NAME [--seeds N] [--first SEED]      N seeds of one scenario
//   sim --scenario NAME --seed SEED [--trace]           one run; --trace prints every event
//   --order NAME  plays under that order of writes (default for a scenario: what it says, else arbitration)
//   sim --explore [NAME] [--jobs J]                     every interleaving of all small plans, of one, or of those it
//                                                       begins, under each order
//   --twice    runs each seed twice and demands the same trace
//   --list     names the scenarios

import type { OrderName } from '../runtime/api.ts'
import { ORDER_NAMES } from '../wire/drbd/constants.ts'
import { Batch, Batches } from './batch.ts'
import type { Exploration } from './explorer/explore.ts'
import { plans, type Variant, variants } from './explorer/plans.ts'
import { EXIT_CODES } from './failure.ts'
import type { CreateReplica } from './host.ts'
import { isAsExpected, type RunResult, runScenario, type Scenario } from './scenario.ts'
import { RANDOM_STORY } from './scenarios/random-story.ts'

export interface CommandParts {
  readonly scenarios: ReadonlyMap<string, Scenario>
  readonly createReplica: CreateReplica
  readonly print: (line: string) => void
  /** Plays seeds of a scenario on `jobs` workers at once; 0: as many as there are cores. */
  readonly playBatch: (batch: Batch | Batches, jobs: number) => Promise<void>
  /** Explores plans by their names on `jobs` workers; `found` is called for each as it ends. */
  readonly exploreAll: (
    names: readonly string[],
    variant: Variant,
    jobs: number,
    found: (name: string, result: Exploration) => void,
  ) => Promise<void>
  /** Milliseconds on the wall clock. */
  readonly wallMs: () => number
  /** The commit that runs, for the report of a failure. */
  readonly commit: string
}

interface Arguments {
  readonly scenario: string | undefined
  readonly seeds: number | undefined
  readonly first: number
  readonly seed: number | undefined
  readonly order: OrderName | undefined
  readonly trace: boolean
  readonly twice: boolean
  readonly list: boolean
  readonly jobs: number
  /** Seeds of each named scenario. */
  readonly atMost: number
  /** Plans to explore: those whose names begin so. */
  readonly explore: string | undefined
}

const SEED_MAX = 0xffff_ffff
const VALUE_ARGUMENTS: ReadonlySet<string> = new Set([
  '--scenario',
  '--seeds',
  '--first',
  '--seed',
  '--jobs',
  '--at-most',
  '--order',
])

/** Runs the command and returns its exit code. */
export function runCommand(args: readonly string[], parts: CommandParts): number | Promise<number> {
  const parsed = parseArguments(args)
  if (typeof parsed === 'string') return usage(parts, parsed)
  if (parsed.list) {
    for (const { name, options } of parts.scenarios.values()) parts.print(`${name} (${options.seeds} seeds)`)
    return EXIT_CODES.passed
  }
  if (parsed.explore !== undefined) return runExplorer(parsed.explore, parsed, parts)
  if (parsed.scenario === undefined && parsed.seeds !== undefined) return runRandom(parsed, parsed.seeds, parts)
  const chosen = chooseScenarios(parsed.scenario, parts.scenarios)
  if (chosen.length === 0) return usage(parts, `no scenario is named ${parsed.scenario} (--list shows all)`)
  if (parsed.trace && (parsed.seed === undefined || chosen.length > 1)) {
    return usage(parts, '--trace needs --scenario and --seed')
  }
  if (chosen.length > 1 && !parsed.twice) return runNamed(chosen, parsed, parts)
  const codes = chosen.map((scenario) => runSeeds(scenario, parsed, parts))
  return codes.find((code) => code !== EXIT_CODES.passed) ?? EXIT_CODES.passed
}

/** On all cores; all are played, so that one report shows all failures. The first one names the run. */
async function runNamed(chosen: readonly Scenario[], args: Arguments, parts: CommandParts): Promise<number> {
  const batches = chosen.map(
    ({ name, options }) =>
      new Batch({ scenario: name, order: args.order }, args.first, Math.min(options.seeds, args.atMost)),
  )
  const startedMs = parts.wallMs()
  await parts.playBatch(new Batches(batches), args.jobs)
  let worst: number = EXIT_CODES.passed
  for (const [index, scenario] of chosen.entries()) {
    const { failed, steps, requests, first, played } = batches[index] as Batch
    const how = scenario.options.mustFail === undefined ? 'ok' : 'ok (failed, as it must)'
    const code = failed === undefined ? EXIT_CODES.passed : runSeeds(scenario, { ...args, seed: failed.seed }, parts)
    if (code === EXIT_CODES.passed)
      parts.print(
        `${how} ${scenario.name}: seeds ${first}..${first + played - 1}, ${steps} steps, ${requests} requests`,
      )
    else if (worst === EXIT_CODES.passed) worst = code
  }
  parts.print(`played ${chosen.length} scenarios, ${((parts.wallMs() - startedMs) / 1000).toFixed(1)} s`)
  return worst
}

function runSeeds(scenario: Scenario, args: Arguments, parts: CommandParts): number {
  const first = args.seed ?? args.first
  const count = args.seed !== undefined ? 1 : (args.seeds ?? scenario.options.seeds)
  let steps = 0
  let requests = 0
  for (let seed = first; seed < first + count; seed++) {
    const onLine = args.trace ? parts.print : undefined
    const result = runScenario(scenario, seed, parts.createReplica, onLine, args.order)
    if (args.seed !== undefined) for (const line of result.drawn) parts.print(`seed ${seed}: ${line}`)
    steps += result.steps
    requests += result.requests
    if (args.twice) {
      const again = runScenario(scenario, seed, parts.createReplica, undefined, args.order)
      if (again.traceHash !== result.traceHash) {
        parts.print(
          `FAILED ${scenario.name} seed ${seed}: two runs, two traces (${result.traceHash}, ${again.traceHash})`,
        )
        return EXIT_CODES['wrong-result']
      }
    }
    if (isAsExpected(scenario, result)) continue
    printFailure(scenario, result, parts, args.order)
    return result.failure === undefined ? EXIT_CODES.blind : EXIT_CODES[result.failure.kind]
  }
  const how = scenario.options.mustFail === undefined ? 'ok' : 'ok (failed, as it must)'
  parts.print(`${how} ${scenario.name}: seeds ${first}..${first + count - 1}, ${steps} steps, ${requests} requests`)
  return EXIT_CODES.passed
}

/** Plans under each order, or the one that is asked for. */
async function runExplorer(prefix: string, args: Arguments, parts: CommandParts): Promise<number> {
  const chosen = variants.filter(({ order }) => args.order === undefined || args.order === order)
  const exact = plans.get(prefix)
  const named = exact !== undefined ? [exact] : [...plans.values()].filter(({ name }) => name.startsWith(prefix))
  let worst: number | undefined
  for (const variant of chosen) {
    const names = named.filter(({ orders }) => orders.includes(variant.order)).map(({ name }) => name)
    if (names.length === 0) continue
    const code = await explorePlans(names, variant, args, parts)
    worst = worst === undefined || worst === EXIT_CODES.passed ? code : worst
  }
  return worst ?? usage(parts, `no plan begins with ${prefix}: ${[...plans.keys()].join(' ')}`)
}

/** On all cores, one after the other on each. */
async function explorePlans(
  names: readonly string[],
  variant: Variant,
  args: Arguments,
  parts: CommandParts,
): Promise<number> {
  const startedMs = parts.wallMs()
  let states = 0
  let worst: number = EXIT_CODES.passed
  await parts.exploreAll(names, variant, args.jobs, (name, { failure, ...found }) => {
    states += found.states
    const figures = `${found.states} states, ${found.ends} ends, ${found.depth} steps deep, ${found.runs} runs`
    parts.print(`${failure === undefined ? 'ok' : 'FAILED'} ${name}: ${figures}`)
    if (failure === undefined) return
    for (const step of failure.steps) parts.print(`  ${step}`)
    parts.print(`FAILED ${name}: checker ${failure.checker}, after the steps above, commit ${parts.commit}`)
    parts.print(failure.message)
    parts.print(`replay: npm run sim -- --explore ${name} --order ${variant.order}`)
    worst = EXIT_CODES['wrong-result']
  })
  const seconds = ((parts.wallMs() - startedMs) / 1000).toFixed(1)
  parts.print(`explored ${names.length} plans under ${variant.name}, ${states} states, ${seconds} s`)
  return worst
}

/** Random stories on all cores, under one order of writes after the other. */
async function runRandom(args: Arguments, seeds: number, parts: CommandParts): Promise<number> {
  const scenario = parts.scenarios.get(RANDOM_STORY)
  if (scenario === undefined) return usage(parts, `no scenario is named ${RANDOM_STORY}`)
  let worst: number = EXIT_CODES.passed
  for (const order of args.order === undefined ? ORDER_NAMES : [args.order]) {
    const code = await runRandomUnder(order, scenario, { ...args, seeds }, parts)
    if (worst === EXIT_CODES.passed) worst = code
  }
  return worst
}

async function runRandomUnder(
  order: OrderName,
  scenario: Scenario,
  args: Arguments & { readonly seeds: number },
  parts: CommandParts,
): Promise<number> {
  const batch = new Batch({ scenario: RANDOM_STORY, order }, args.first, args.seeds)
  const startedMs = parts.wallMs()
  await parts.playBatch(batch, args.jobs)
  const seconds = (parts.wallMs() - startedMs) / 1000
  const { failed, steps, requests, played } = batch
  const rate = `${seconds.toFixed(1)} s, ${(played / seconds).toFixed(1)} seeds/s`
  const last = args.first + played - 1
  parts.print(
    `${failed === undefined ? 'ok' : 'FAILED'} ${order}: seeds ${args.first}..${last}, ${requests} operations, ${steps} steps, ${rate}`,
  )
  if (failed === undefined) return EXIT_CODES.passed
  // Once more, for the report: the same seed does the same.
  const result = runScenario(scenario, failed.seed, parts.createReplica, undefined, order)
  printFailure(scenario, result, parts, order)
  return result.failure === undefined ? EXIT_CODES.blind : EXIT_CODES[result.failure.kind]
}

function printFailure(
  scenario: Scenario,
  result: RunResult,
  { print, commit }: CommandParts,
  order: OrderName | undefined,
): void {
  const { name, options } = scenario
  const { seed, steps, virtualMs, failure } = result
  for (const line of result.lastLines) print(line)
  for (const line of result.drawn) print(`drawn: ${line}`)
  if (options.mustFail !== undefined) print(`${name} must fail (${options.mustFail.join(' or ')}), and did not so`)
  const checker = failure?.checker ?? 'none'
  print(`FAILED ${name}: checker ${checker}, seed ${seed}, step ${steps}, at ${virtualMs} ms, commit ${commit}`)
  if (failure !== undefined) print(failure.message)
  const underOrder = order === undefined ? '' : ` --order ${order}`
  print(`replay: npm run sim -- --scenario ${name} --seed ${seed}${underOrder} --trace`)
}

function usage({ print }: CommandParts, problem: string): number {
  print(`sim: ${problem}`)
  print(
    'usage: sim [--at-most N] [--scenario NAME] [--seeds N] [--first SEED] [--jobs J] [--seed SEED [--trace]] [--order NAME] [--twice] [--list] [--explore [PLAN]]',
  )
  return EXIT_CODES.usage
}

/** The scenario of that name, or all. */
function chooseScenarios(name: string | undefined, all: ReadonlyMap<string, Scenario>): Scenario[] {
  if (name === undefined) return [...all.values()]
  const found = all.get(name)
  return found === undefined ? [] : [found]
}

/** The arguments, or what is wrong with them. */
function parseArguments(args: readonly string[]): Arguments | string {
  const values = new Map<string, string>()
  const flags = new Set<string>()
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] as string
    if (arg === '--trace' || arg === '--twice' || arg === '--list') flags.add(arg)
    else if (arg === '--explore') {
      flags.add(arg)
      const name = args[i + 1]
      if (name !== undefined && !name.startsWith('--')) values.set(arg, args[++i] as string)
    } else if (VALUE_ARGUMENTS.has(arg)) {
      const value = args[++i]
      if (value === undefined) return `${arg} needs a value`
      values.set(arg, value)
    } else return `unknown argument ${arg}`
  }
  const numbers = new Map<string, number>()
  for (const name of ['--seeds', '--first', '--seed', '--jobs', '--at-most']) {
    const text = values.get(name)
    if (text === undefined) continue
    const value = Number(text)
    if (!Number.isInteger(value) || value < 0 || value > SEED_MAX)
      return `${name} is not a number up to ${SEED_MAX}: ${text}`
    numbers.set(name, value)
  }
  if (numbers.get('--seeds') === 0) return '--seeds must be at least 1'
  const orderText = values.get('--order')
  const order = ORDER_NAMES.find((name) => name === orderText)
  if (order !== orderText) return `--order ${orderText}: must be one of ${ORDER_NAMES.join(', ')}`
  return {
    scenario: values.get('--scenario'),
    seeds: numbers.get('--seeds'),
    first: numbers.get('--first') ?? 1,
    order,
    seed: numbers.get('--seed'),
    trace: flags.has('--trace'),
    twice: flags.has('--twice'),
    list: flags.has('--list'),
    jobs: numbers.get('--jobs') ?? 0,
    atMost: numbers.get('--at-most') ?? SEED_MAX,
    explore: flags.has('--explore') ? (values.get('--explore') ?? '') : undefined,
  }
}
