// Decides whether a small disk operation may be done synchronously, on the thread of the event loop.
//
// In the page cache a 4 KiB pread or pwrite takes 1 to 8 us; through libuv's thread pool it takes 50 to 75 us and more of the
// main thread's time than doing it. But the same call may wait for the disk: a read that is not cached, a write that
// is throttled because too much is dirty. So: synchronous while it is fast; after one slow operation the thread pool for
// a while; then a single operation probes again. If it gets slow again soon, the while doubles.

/** An operation that took longer has waited for the disk: no page-cache copy of 128 KiB takes so long. */
export const SLOW_MS = 1
export const PENALTY_MS_MIN = 10
export const PENALTY_MS_MAX = 1000
/** Open for so many penalties without a slow operation, and the next one starts again from the shortest. */
const PENALTIES_FORGIVEN = 20

export class SyncGate {
  #closedUntilMs = Number.NEGATIVE_INFINITY
  #penaltyMs = PENALTY_MS_MIN
  #slowCount = 0

  /** Operations that took too long, since the beginning. */
  get slowCount(): number {
    return this.#slowCount
  }

  allows(nowMs: number): boolean {
    return nowMs >= this.#closedUntilMs
  }

  /** Reports an operation that was done synchronously. */
  note(startMs: number, endMs: number): void {
    if (endMs - startMs <= SLOW_MS) return
    this.#slowCount++
    // By time and not by number of operations: in the milliseconds until it gets stuck again it may do thousands.
    const openMs = startMs - this.#closedUntilMs
    const forgiven = openMs >= PENALTIES_FORGIVEN * this.#penaltyMs
    this.#penaltyMs = forgiven ? PENALTY_MS_MIN : Math.min(this.#penaltyMs * 2, PENALTY_MS_MAX)
    this.#closedUntilMs = endMs + this.#penaltyMs
  }
}
