// The engine's alarm clock: named deadlines. The runtime wakes the engine with a tick at the earliest of them.

export class Timers {
  readonly #deadlines = new Map<string, { atMs: number; readonly fire: () => void }>()
  #earliestMs = Number.POSITIVE_INFINITY

  /** Sets or replaces the deadline of that name. */
  set(name: string, atMs: number, fire: () => void): void {
    this.#deadlines.set(name, { atMs, fire })
    if (atMs < this.#earliestMs) this.#earliestMs = atMs
    else this.#recompute()
  }

  has(name: string): boolean {
    return this.#deadlines.has(name)
  }

  clear(name: string): void {
    if (this.#deadlines.delete(name)) this.#recompute()
  }

  /** Milliseconds on the engine's clock, or infinity. */
  get earliestMs(): number {
    return this.#earliestMs
  }

  /** Fires all that are due, in the order in which they were first set. */
  run(nowMs: number): void {
    if (nowMs < this.#earliestMs) return
    for (const [name, timer] of [...this.#deadlines]) {
      if (timer.atMs > nowMs || this.#deadlines.get(name) !== timer) continue
      this.#deadlines.delete(name)
      timer.fire()
    }
    this.#recompute()
  }

  #recompute(): void {
    let earliest = Number.POSITIVE_INFINITY
    for (const timer of this.#deadlines.values()) if (timer.atMs < earliest) earliest = timer.atMs
    this.#earliestMs = earliest
  }
}
