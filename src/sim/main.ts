// The `sim` command: scenarios on simulated machines with the daemon's own replica. See command.ts for its arguments. This
// file is also what its workers run: they play the seeds, or explore the plans, that they are sent.

import { execFileSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { Replica } from '../runtime/replica.ts'
import { type Chunk, type ChunkResult, playChunk } from './batch.ts'
import { runCommand } from './command.ts'
import { type Exploration, explore } from './explorer/explore.ts'
import { plans, type Variant } from './explorer/plans.ts'
import type { CreateReplica } from './host.ts'
import { scenarios } from './scenario.ts'
import './scenarios/index.ts'

/** Ten times what the largest plan has. */
const STATES_MAX = 500_000

const createReplica: CreateReplica = (settings, ports) => new Replica(settings, ports)

function currentCommit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: 'pipe' }).trim()
  } catch {
    return 'unknown'
  }
}

/** Work for workers: what is left of it, and what becomes of the answers. */
interface Work<Task, Answer> {
  take(): Task | undefined
  add(answer: Answer): void
}

/** Each worker gets its next task as soon as it has done the one before. */
function onWorkers<Task, Answer>(work: Work<Task, Answer>, jobs: number): Promise<void> {
  const goThroughIt = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const worker = new Worker(fileURLToPath(import.meta.url))
      const goOn = (): void => {
        const task = work.take()
        if (task !== undefined) worker.postMessage(task)
        else void worker.terminate().then(() => resolve())
      }
      worker.on('error', reject)
      worker.on('message', (answer: Answer) => {
        work.add(answer)
        goOn()
      })
      goOn()
    })
  return Promise.all(Array.from({ length: jobs || availableParallelism() }, goThroughIt)).then(() => {})
}

interface PlanTask {
  readonly name: string
  readonly variant: Variant
}

interface Explored {
  readonly name: string
  readonly result: Exploration
}

function exploreAll(
  names: readonly string[],
  variant: Variant,
  jobs: number,
  found: (name: string, result: Exploration) => void,
): Promise<void> {
  const left = [...names]
  const take = (): PlanTask | undefined => {
    const name = left.shift()
    return name === undefined ? undefined : { name, variant }
  }
  const work: Work<PlanTask, Explored> = { take, add: ({ name, result }) => found(name, result) }
  return onWorkers(work, jobs)
}

function play(chunk: Chunk): ChunkResult {
  const scenario = scenarios.get(chunk.scenario)
  if (scenario === undefined) throw new Error(`no scenario is named ${chunk.scenario}`)
  return playChunk(scenario, chunk, createReplica)
}

function exploreOne({ name, variant }: PlanTask): Explored {
  const named = plans.get(name)
  if (named === undefined) throw new Error(`no plan is named ${name}`)
  return { name, result: explore(named, { createReplica, statesMax: STATES_MAX, variant }) }
}

if (isMainThread) {
  process.stdout.on('error', () => process.exit())
  process.exitCode = await runCommand(process.argv.slice(2), {
    scenarios,
    createReplica,
    print: (line) => {
      // Who reads a trace may have seen enough; no event tells of it in the middle of a run.
      if (process.stdout.destroyed) process.exit()
      process.stdout.write(`${line}\n`)
    },
    playBatch: (batch, jobs) => onWorkers<Chunk, ChunkResult>(batch, jobs),
    exploreAll,
    wallMs: () => performance.now(),
    commit: currentCommit(),
  })
} else {
  parentPort?.on('message', (task: Chunk | PlanTask) => {
    parentPort?.postMessage('name' in task ? exploreOne(task) : play(task))
  })
}
