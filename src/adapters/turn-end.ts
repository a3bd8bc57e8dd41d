// What disks and links do once at the end of a turn of the event loop, together, instead of once for each request.
//
// A turn is what the event loop handles between two looks at the clock and the sockets: usually some received data and all
// that follows from it. At its end, in this order:
//   1. the links hand what was gathered to the operating system, one system call each: the peer gets a write before the own
//      disk keeps the processor busy with it;
//   2. disks do the synchronous writes that were submitted;
//   3. completions of disk operations that were done synchronously (a port never completes inside the submitting call);
//      what they submit anew is done and completes in the next round, for a few rounds, so that a chain of page-cache
//      operations (activity log, then data) does not take one turn per link of the chain;
//   4. the links again, with the replies of step 3.
// `setImmediate` and not `process.nextTick`: it runs after all sockets that were ready have been read, so that a burst on
// several sockets leaves as one batch, and a chain that never ends cannot keep the sockets from being read. Measured: it
// costs no wake-up of its own (1.3 us for a whole empty turn) and is not slower than nextTick in a ping-pong.

import { performance } from 'node:perf_hooks'

import type { DiskDone, DiskError } from '../runtime/ports.ts'

/** Whoever submitted the operation; once `closed`, its completions are dropped. */
export interface CompletionOwner {
  readonly closed: boolean
}

export interface TurnEndTask {
  onTurnEnd(): void
}

export interface TurnEndWorker {
  /** Does what was submitted since the last time. */
  onTurnEndWork(): void
}

interface Completion {
  readonly owner: CompletionOwner
  readonly done: DiskDone
  readonly error: DiskError | undefined
  readonly data: Uint8Array | undefined
}

/** Rounds of completions in one turn that need no look at the clock. */
const ROUNDS_FREE = 2
/** Further rounds are allowed until so much time of the turn is spent; then the sockets get their turn. */
const ROUNDS_BUDGET_MS = 0.25
/** With so many completions waiting, do not wait until all ready sockets have been read. */
const COMPLETIONS_EARLY = 64

let completions: Completion[] = []
let position = 0
let tasks: TurnEndTask[] = []
let workers: TurnEndWorker[] = []
let immediateSet = false
let tickSet = false
let running = false

/** Calls `done` at the end of the turn, unless `owner` is closed by then. */
export function completeAtTurnEnd(owner: CompletionOwner, done: DiskDone, error?: DiskError, data?: Uint8Array): void {
  completions.push({ owner, done, error, data })
  schedule()
  if (completions.length >= COMPLETIONS_EARLY && !tickSet && !running) {
    tickSet = true
    process.nextTick(runTick)
  }
}

/** Calls `worker.onTurnEndWork()` at the end of the turn, after the links have sent what was gathered until then. */
export function workAtTurnEnd(worker: TurnEndWorker): void {
  workers.push(worker)
  schedule()
}

/** Calls `task.onTurnEnd()` once at the end of the turn, after the completions. */
export function runAtTurnEnd(task: TurnEndTask): void {
  tasks.push(task)
  schedule()
}

function schedule(): void {
  if (immediateSet || running) return
  immediateSet = true
  setImmediate(runImmediate)
}

function runTick(): void {
  tickSet = false
  run()
}

function runImmediate(): void {
  immediateSet = false
  run()
}

function run(): void {
  running = true
  try {
    runTasks()
    runCompletions()
    runTasks()
  } finally {
    running = false
    // Also after an exception in a callback: whoever survives it must not wait for ever.
    if (completions.length > 0 || tasks.length > 0 || workers.length > 0) schedule()
  }
}

function runCompletions(): void {
  let startMs = 0
  for (let round = 0; completions.length > 0 || workers.length > 0; round++) {
    if (round === ROUNDS_FREE) startMs = performance.now()
    else if (round > ROUNDS_FREE && performance.now() - startMs > ROUNDS_BUDGET_MS) return
    runWorkers()
    runOneRound()
  }
}

function runWorkers(): void {
  if (workers.length === 0) return
  const batch = workers
  workers = []
  for (const worker of batch) worker.onTurnEndWork()
}

function runOneRound(): void {
  const batch = completions
  completions = []
  position = 0
  try {
    while (position < batch.length) {
      const completion = batch[position++] as Completion
      if (!completion.owner.closed) completion.done(completion.error, completion.data)
    }
  } finally {
    if (position < batch.length) completions = batch.slice(position).concat(completions)
  }
}

function runTasks(): void {
  const batch = tasks
  tasks = []
  for (const task of batch) task.onTurnEnd()
}
