// The `sim` command: scenarios on simulated machines with the daemon's own replica. See command.ts for its arguments. This
// file is also what its workers run: they play the seeds that they are sent.

import { execFileSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { Replica } from '../runtime/replica.ts'
import { type Batch, type Chunk, type ChunkResult, playChunk } from './batch.ts'
import { runCommand } from './command.ts'
import type { CreateReplica } from './host.ts'
import { scenarios } from './scenario.ts'
import './scenarios/index.ts'

const createReplica: CreateReplica = (settings, ports) => new Replica(settings, ports)

function currentCommit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: 'pipe' }).trim()
  } catch {
    return 'unknown'
  }
}

/** Each worker gets its next seeds as soon as it has played the ones before. */
function playOnWorkers(batch: Batch, jobs: number): Promise<void> {
  const play = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const worker = new Worker(fileURLToPath(import.meta.url))
      const goOn = (): void => {
        const chunk = batch.take()
        if (chunk !== undefined) worker.postMessage(chunk)
        else void worker.terminate().then(() => resolve())
      }
      worker.on('error', reject)
      worker.on('message', (result: ChunkResult) => {
        batch.add(result)
        goOn()
      })
      goOn()
    })
  return Promise.all(Array.from({ length: jobs || availableParallelism() }, play)).then(() => {})
}

function work(): void {
  parentPort?.on('message', (chunk: Chunk) => {
    const scenario = scenarios.get(chunk.scenario)
    if (scenario === undefined) throw new Error(`no scenario is named ${chunk.scenario}`)
    parentPort?.postMessage(playChunk(scenario, chunk, createReplica))
  })
}

if (isMainThread) {
  process.exitCode = await runCommand(process.argv.slice(2), {
    scenarios,
    createReplica,
    print: (line) => process.stdout.write(`${line}\n`),
    playBatch: playOnWorkers,
    wallMs: () => performance.now(),
    commit: currentCommit(),
  })
} else work()
