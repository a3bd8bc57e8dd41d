// Walks every interleaving of a small scenario (pair.ts says of what) and looks at every state.
//
// A replica is deterministic, and here neither chance nor a time that others share acts on it: its state is a function of the
// steps that happened to it, in their order. Streams and disk queues follow from the same. So two interleavings that differ only in how steps of
// the two hosts are interleaved lead to the same state of the whole world, and one of them is enough: a state is named by
// the two sequences of steps, one for each host. What the clients may conclude depends also on which operation had been
// answered before another one was asked for, on either host; that is the third part of the name. Names are kept as hashes
// of 106 bits; no state is ever taken for another one but by a collision of these.
//
// The name of a state that a step leads to is known before the step is taken, so a state is entered once. There is no way
// to copy a replica: to go back, the run is begun anew and repeated up to the fork.

import { SECTOR_BYTES } from '../../base/units.ts'
import { checkHistory } from '../checkers/durability.ts'
import { checkReplicasEqual } from '../checkers/replicas-equal.ts'
import { CheckFailure } from '../failure.ts'
import type { CreateReplica } from '../host.ts'
import type { HostName } from '../network.ts'
import { DEVICE_SECTORS } from './pair.ts'
import { type NamedPlan, type Variant, variants } from './plans.ts'
import { Run } from './run.ts'

export interface Exploration {
  readonly states: number
  /** Interleavings that were run to their end or to a state known before. */
  readonly runs: number
  /** States in which nothing is left to happen. */
  readonly ends: number
  /** The longest way from the start. */
  readonly depth: number
  readonly failure:
    | { readonly checker: string; readonly message: string; readonly steps: readonly string[] }
    | undefined
}

export interface ExploreOptions {
  readonly createReplica: CreateReplica
  readonly statesMax: number
  /** Default: arbitration. */
  readonly variant?: Variant
}

export function explore(
  named: Pick<NamedPlan, 'plan' | 'beginning'>,
  { createReplica, statesMax, variant = variants[0] as Variant }: ExploreOptions,
): Exploration {
  const visited = new Set<string>()
  const forks: string[][] = [[]]
  let runs = 0
  let ends = 0
  let depth = 0
  for (let fork = forks.pop(); fork !== undefined; fork = forks.pop()) {
    const run = new Run(named, createReplica, variant)
    runs++
    const name = new StateName(named.plan.length)
    try {
      for (const step of fork) advance(run, name, step)
      visited.add(name.text)
      for (;;) {
        checkState(run)
        const steps = run.steps()
        depth = Math.max(depth, run.taken.length)
        if (steps.length === 0) {
          ends++
          checkEnd(run)
          break
        }
        let next: string | undefined
        for (const step of steps) {
          const known = name.after(run, step)
          if (visited.has(known)) continue
          visited.add(known)
          if (next === undefined) next = step.name
          else forks.push([...run.taken, step.name])
        }
        if (visited.size > statesMax) throw new CheckFailure('explorer', `more than ${statesMax} states`)
        if (next === undefined) break
        advance(run, name, next)
      }
    } catch (error) {
      const checker = error instanceof CheckFailure ? error.checker : 'crash'
      const message = error instanceof Error ? (error.stack ?? error.message) : String(error)
      const short = error instanceof CheckFailure ? error.message : message
      return { states: visited.size, runs, ends, depth, failure: { checker, message: short, steps: run.taken } }
    }
  }
  return { states: visited.size, runs, ends, depth, failure: undefined }
}

function advance(run: Run, name: StateName, step: string): void {
  name.add(run, step)
  run.take(step)
}

function checkState(run: Run): void {
  const broken = run.pair.invariant.check()
  if (broken !== undefined) throw new CheckFailure('out-of-sync-invariant', broken)
}

function checkEnd(run: Run): void {
  if (run.unanswered > 0) throw new CheckFailure('progress', `${run.unanswered} operations are never answered`)
  const { a, b } = run.pair.hosts
  const difference = checkReplicasEqual(a.disk.image, b.disk.image, DEVICE_SECTORS * SECTOR_BYTES)
  if (difference !== undefined) throw new CheckFailure('replicas-equal', difference)
  const violation = checkHistory(run.history)
  if (violation !== undefined) throw new CheckFailure(violation.checker, violation.message)
}

/** The name of the state that a run is in. */
class StateName {
  readonly #hashes: Record<HostName, string> = { a: '', b: '' }
  /** For each operation the operations that had been answered when it was asked for. */
  readonly #answeredBefore: string[]

  constructor(operations: number) {
    this.#answeredBefore = new Array<string>(operations).fill('-')
  }

  get text(): string {
    return `${this.#hashes.a}/${this.#hashes.b}/${this.#answeredBefore.join()}`
  }

  add(run: Run, step: string): void {
    const host = hostOf(step)
    this.#hashes[host] = hash(this.#hashes[host] + step)
    const operation = run.operationOf(step)
    if (operation !== undefined) this.#answeredBefore[operation] = run.answered
  }

  /** The name after one more step, which is not taken. */
  after(run: Run, step: { readonly name: string; readonly host: HostName }): string {
    const changed = hash(this.#hashes[step.host] + step.name)
    const operation = run.operationOf(step.name)
    const before =
      operation === undefined
        ? this.#answeredBefore.join()
        : this.#answeredBefore.map((each, index) => (index === operation ? run.answered : each)).join()
    return step.host === 'a' ? `${changed}/${this.#hashes.b}/${before}` : `${this.#hashes.a}/${changed}/${before}`
  }
}

const hostOf = (step: string): HostName => (step.startsWith('a') ? 'a' : 'b')

/** 53 bits of each of the two halves of a host's history; the two hosts together make 106. */
function hash(text: string): string {
  let low = 0xdeadbeef
  let high = 0x41c6ce57
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    low = Math.imul(low ^ code, 2654435761)
    high = Math.imul(high ^ code, 1597334677)
  }
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909)
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909)
  return (4294967296 * (2097151 & high) + (low >>> 0)).toString(36)
}
