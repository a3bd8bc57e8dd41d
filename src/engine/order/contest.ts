// Which way two hosts that fight for extents get more writes done, under `auto`: *shared*, both write in the coordinator's
// order, or *turns*, the lock goes to and fro. It depends on the link (a host that asks first waits a round trip, one that
// waits for its turn ten), on how many clients wait at once, on whether they overwrite each other's blocks, and on what a
// packet costs the processors. So it is tried and counted: writes of both hosts, in two samples one behind the other. On the
// whole volume, because clients that wait in one extent are missing in the others.
//
//   sample of the way in force ──▶ trial of the other one ──▶ the better one is in force, rest ──▶ sample ──▶ ...
//         50 + 200 ms                   50 + 200 ms            2 s; after a trial for nothing twice as long, up to 32 s

import {
  CONTEST_BETTER_PERCENT,
  CONTEST_GAP_MS,
  CONTEST_REST_MS_MAX,
  CONTEST_REST_MS_MIN,
  CONTEST_SAMPLE_MS,
  CONTEST_SETTLE_MS,
  CONTEST_WRITES_MIN,
} from '../limits.ts'

export type Way = 'shared' | 'turns'

const other = (way: Way): Way => (way === 'shared' ? 'turns' : 'shared')

export class Contest {
  /** In force. */
  way: Way = 'shared'
  #phase: 'sample' | 'trial' | 'rest' = 'sample'
  #phaseSinceMs = 0
  /** Counting since then, after the first moment of a phase; undefined: not yet. */
  #countsSinceMs: number | undefined
  #writesBefore = 0
  /** Writes per millisecond in the sample that the trial is held against. */
  #sampleRate = 0
  #restMs = CONTEST_REST_MS_MIN
  #lastMs = Number.NEGATIVE_INFINITY

  /** The hosts met in an extent. `writes`: of both hosts so far. True: another way is in force now. */
  onMeeting(nowMs: number, writes: number): boolean {
    const isNew = nowMs - this.#lastMs > CONTEST_GAP_MS
    this.#lastMs = nowMs
    if (isNew) return this.#beginAnew(nowMs)
    if (this.#phase === 'rest') {
      if (nowMs - this.#phaseSinceMs >= this.#restMs) this.#enter('sample', nowMs)
      return false
    }
    if (this.#countsSinceMs === undefined) {
      if (nowMs - this.#phaseSinceMs >= CONTEST_SETTLE_MS) this.#count(nowMs, writes)
      return false
    }
    const sampleMs = nowMs - this.#countsSinceMs
    if (sampleMs < CONTEST_SAMPLE_MS) return false
    const counted = writes - this.#writesBefore
    return this.#phase === 'sample'
      ? this.#onSample(nowMs, writes, counted, sampleMs)
      : this.#onTrial(nowMs, counted / sampleMs)
  }

  /** What was sampled before says nothing about this contest. */
  #beginAnew(nowMs: number): boolean {
    const isTrial = this.#phase === 'trial'
    if (isTrial) this.way = other(this.way)
    this.#restMs = CONTEST_REST_MS_MIN
    this.#enter('sample', nowMs)
    return isTrial
  }

  #enter(phase: 'sample' | 'trial' | 'rest', nowMs: number): void {
    this.#phase = phase
    this.#phaseSinceMs = nowMs
    this.#countsSinceMs = undefined
  }

  #count(nowMs: number, writes: number): void {
    this.#countsSinceMs = nowMs
    this.#writesBefore = writes
  }

  #onSample(nowMs: number, writes: number, counted: number, sampleMs: number): boolean {
    if (counted < CONTEST_WRITES_MIN) {
      this.#count(nowMs, writes)
      if (this.way === 'shared') return false
      this.way = 'shared'
      return true
    }
    this.#sampleRate = counted / sampleMs
    this.way = other(this.way)
    this.#enter('trial', nowMs)
    return true
  }

  #onTrial(nowMs: number, rate: number): boolean {
    const rates =
      this.way === 'turns' ? { turns: rate, shared: this.#sampleRate } : { turns: this.#sampleRate, shared: rate }
    const winner: Way = rates.turns * 100 > rates.shared * (100 + CONTEST_BETTER_PERCENT) ? 'turns' : 'shared'
    const isForNothing = winner !== this.way
    this.#restMs = isForNothing ? Math.min(2 * this.#restMs, CONTEST_REST_MS_MAX) : CONTEST_REST_MS_MIN
    this.way = winner
    this.#enter('rest', nowMs)
    return isForNothing
  }
}
