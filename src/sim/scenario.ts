// Scenarios: named stories about what must hold. `scenario` registers one; `runScenario` plays it once for one seed: a new
// world, boot, the story, then the end that every story has (World.finish): faults off, the world must come to rest, and
// the checkers have the last word.

import type { OrderName } from '../runtime/api.ts'
import { type CheckFailure, toCheckFailure } from './failure.ts'
import type { CreateReplica } from './host.ts'
import { describeOptions, type WorldChoice } from './options.ts'
import { Trace } from './trace.ts'
import { World } from './world.ts'

export interface ScenarioOptions {
  /** Seeds that a run over all scenarios plays. */
  readonly seeds: number
  /** What the story fixes, for all seeds or for each; the rest is drawn. */
  readonly world?: WorldChoice | ((seed: number) => WorldChoice)
  /** What the story itself draws, for the head of a run. */
  readonly describe?: (seed: number) => readonly string[]
  /** The story itself ends the world; `finish` is not called. */
  readonly endsItself?: boolean
  /** A scenario that must fail, and the checkers of which one must find it. */
  readonly mustFail?: readonly string[]
}

export interface Scenario {
  readonly name: string
  readonly options: ScenarioOptions
  readonly story: (world: World) => void
}

export const scenarios = new Map<string, Scenario>()

export function scenario(name: string, options: ScenarioOptions, story: (world: World) => void): void {
  if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(name)) throw new Error(`scenario name ${name} is not kebab-case`)
  if (scenarios.has(name)) throw new Error(`two scenarios are named ${name}`)
  scenarios.set(name, { name, options, story })
}

export interface RunResult {
  readonly scenario: string
  readonly seed: number
  readonly drawn: readonly string[]
  readonly failure: CheckFailure | undefined
  readonly steps: number
  readonly virtualMs: number
  readonly traceHash: string
  readonly lastLines: readonly string[]
  readonly requests: number
}

const LAST_LINES = 60

export function runScenario(
  { name, options, story }: Scenario,
  seed: number,
  createReplica: CreateReplica,
  onLine?: (line: string) => void,
  order?: OrderName,
): RunResult {
  const trace = new Trace()
  if (onLine !== undefined) trace.follow(onLine)
  const choice = typeof options.world === 'function' ? options.world(seed) : options.world
  const world = new World(seed, { ...choice, ...(order === undefined ? {} : { order }) }, createReplica, trace)
  let failure: CheckFailure | undefined
  try {
    world.boot()
    story(world)
    if (options.endsItself !== true) world.finish()
  } catch (error) {
    failure = toCheckFailure(error)
  }
  return {
    scenario: name,
    seed,
    drawn: [...describeOptions(world.options), ...(options.describe?.(seed) ?? [])],
    failure,
    steps: world.scheduler.steps,
    virtualMs: world.nowMs,
    traceHash: trace.hash,
    lastLines: trace.last(LAST_LINES),
    requests: world.history.requests.length,
  }
}

/** Whether the run ended as the scenario says it must. */
export function isAsExpected(scenario: Scenario, result: RunResult): boolean {
  const { mustFail } = scenario.options
  if (mustFail === undefined) return result.failure === undefined
  return result.failure !== undefined && mustFail.includes(result.failure.checker)
}
