// The `sim` command without the machine it runs on: arguments in, lines and an exit code out.
//
//   sim [--scenario NAME] [--seeds N] [--first SEED]    N seeds of each scenario (default: as many as it asks for)
//   sim --scenario NAME --seed SEED [--trace]           one run; --trace prints every event
//   --order NAME  plays them under that order of writes (default: what the scenario says, else arbitration)
//   --twice    runs each seed twice and demands the same trace
//   --list     names the scenarios

import type { OrderName } from '../runtime/api.ts'
import { ORDER_NAMES } from '../wire/drbd/constants.ts'
import { EXIT_CODES } from './failure.ts'
import type { CreateReplica } from './host.ts'
import { isAsExpected, type RunResult, runScenario, type Scenario } from './scenario.ts'

export interface CommandParts {
  readonly scenarios: ReadonlyMap<string, Scenario>
  readonly createReplica: CreateReplica
  readonly print: (line: string) => void
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
}

const SEED_MAX = 0xffff_ffff

/** Runs the command and returns its exit code. */
export function runCommand(args: readonly string[], parts: CommandParts): number {
  const parsed = parseArguments(args)
  if (typeof parsed === 'string') return usage(parts, parsed)
  if (parsed.list) {
    for (const { name, options } of parts.scenarios.values()) parts.print(`${name} (${options.seeds} seeds)`)
    return EXIT_CODES.passed
  }
  const chosen = chooseScenarios(parsed.scenario, parts.scenarios)
  if (chosen.length === 0) return usage(parts, `no scenario is named ${parsed.scenario} (--list shows all)`)
  if (parsed.trace && (parsed.seed === undefined || chosen.length > 1)) {
    return usage(parts, '--trace needs --scenario and --seed')
  }
  let worst: number = EXIT_CODES.passed
  for (const scenario of chosen) {
    const code = runSeeds(scenario, parsed, parts)
    // The first failure names the run; later scenarios are still played, so that one report shows all.
    if (worst === EXIT_CODES.passed) worst = code
  }
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
    'usage: sim [--scenario NAME] [--seeds N] [--first SEED] [--seed SEED [--trace]] [--order NAME] [--twice] [--list]',
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
    else if (arg === '--scenario' || arg === '--seeds' || arg === '--first' || arg === '--seed' || arg === '--order') {
      const value = args[++i]
      if (value === undefined) return `${arg} needs a value`
      values.set(arg, value)
    } else return `unknown argument ${arg}`
  }
  const numbers = new Map<string, number>()
  for (const name of ['--seeds', '--first', '--seed']) {
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
  }
}
