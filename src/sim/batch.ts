// Many seeds of one scenario, shared out among workers. Which worker plays which seed changes nothing in what a seed does,
// so the result does not depend on how many there are: on a failure everything below the failing seed is still played, and
// the lowest one that fails is the one reported.

import type { OrderName } from '../runtime/api.ts'
import type { CreateReplica } from './host.ts'
import { isAsExpected, type RunResult, runScenario, type Scenario } from './scenario.ts'

/** What is played. `order`: of writes; undefined: what the scenario says. */
export interface Play {
  readonly scenario: string
  readonly order: OrderName | undefined
}

/** What a worker is told: play these. */
export interface Chunk extends Play {
  readonly first: number
  readonly count: number
}

/** What it answers. */
export interface ChunkResult {
  readonly scenario: string
  readonly steps: number
  readonly requests: number
  /** The lowest seed of the chunk that did not end as it must. */
  readonly failed: FailedSeed | undefined
}

export interface FailedSeed {
  readonly seed: number
  readonly checker: string
  readonly message: string
}

/** Seeds that a worker gets at once: few, so that all end together. */
const CHUNK_SEEDS = 4

/** Plays a chunk to its end or to its first failure. */
export function playChunk(
  scenario: Scenario,
  { first, count, order }: Chunk,
  createReplica: CreateReplica,
): ChunkResult {
  let steps = 0
  let requests = 0
  for (let seed = first; seed < first + count; seed++) {
    const result = runScenario(scenario, seed, createReplica, undefined, order)
    steps += result.steps
    requests += result.requests
    if (isAsExpected(scenario, result)) continue
    return { scenario: scenario.name, steps, requests, failed: describeFailure(result) }
  }
  return { scenario: scenario.name, steps, requests, failed: undefined }
}

function describeFailure({ seed, failure }: RunResult): FailedSeed {
  return { seed, checker: failure?.checker ?? 'none', message: failure?.message ?? 'it passed, and must not' }
}

/** Hands out seeds in ascending order and collects what became of them. */
export class Batch {
  readonly play: Play
  readonly first: number
  readonly count: number
  steps = 0
  requests = 0
  /** The lowest seed that failed so far. */
  failed: FailedSeed | undefined
  #next: number
  #last: number

  constructor(play: Play, first: number, count: number) {
    this.play = play
    this.first = first
    this.count = count
    this.#next = first
    this.#last = first + count - 1
  }

  /** The next seeds to play; undefined: there are none left that matter. */
  take(): Chunk | undefined {
    if (this.#next > this.#last) return undefined
    const count = Math.min(CHUNK_SEEDS, this.#last - this.#next + 1)
    const chunk = { ...this.play, first: this.#next, count }
    this.#next += count
    return chunk
  }

  add({ steps, requests, failed }: ChunkResult): void {
    this.steps += steps
    this.requests += requests
    if (failed === undefined || (this.failed !== undefined && this.failed.seed < failed.seed)) return
    this.failed = failed
    this.#last = Math.min(this.#last, failed.seed - 1)
  }

  /** Seeds played, up to the one that failed. */
  get played(): number {
    return this.failed === undefined ? this.count : this.failed.seed - this.first + 1
  }
}

/** One batch after the other, so that no worker waits for the last seeds of a scenario. */
export class Batches {
  readonly #batches: ReadonlyMap<string, Batch>

  constructor(batches: readonly Batch[]) {
    this.#batches = new Map(batches.map((batch) => [batch.play.scenario, batch]))
  }

  take(): Chunk | undefined {
    for (const batch of this.#batches.values()) {
      const chunk = batch.take()
      if (chunk !== undefined) return chunk
    }
    return undefined
  }

  add(result: ChunkResult): void {
    this.#batches.get(result.scenario)?.add(result)
  }
}
