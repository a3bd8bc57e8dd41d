// The Clock port: the monotonic clock of the process and Node.js timers.

import { performance } from 'node:perf_hooks'

import { assert } from '../base/assert.ts'
import type { Clock } from '../runtime/ports.ts'

/** Node.js turns a longer delay into 1 ms. */
const TIMEOUT_MS_MAX = 0x7fff_ffff

export class SystemClock implements Clock {
  nowMs(): number {
    return performance.now()
  }

  /** A deadline of infinity never comes; one that is past comes at the end of this turn, not inside the call. */
  wakeAt(deadlineMs: number, fire: () => void): { cancel(): void } {
    assert(!Number.isNaN(deadlineMs), 'a deadline is a number')
    const wakeup = new Wakeup(deadlineMs, fire)
    wakeup.arm()
    return wakeup
  }
}

class Wakeup {
  readonly #deadlineMs: number
  #fire: (() => void) | undefined
  #timer: NodeJS.Timeout | undefined
  #immediate: NodeJS.Immediate | undefined

  constructor(deadlineMs: number, fire: () => void) {
    this.#deadlineMs = deadlineMs
    this.#fire = fire
  }

  arm(): void {
    if (this.#deadlineMs === Number.POSITIVE_INFINITY) return
    const leftMs = this.#deadlineMs - performance.now()
    if (leftMs <= 0) this.#immediate = setImmediate(() => this.#expired())
    else this.#timer = setTimeout(() => this.#expired(), Math.min(Math.ceil(leftMs), TIMEOUT_MS_MAX))
  }

  cancel(): void {
    this.#fire = undefined
    clearTimeout(this.#timer)
    clearImmediate(this.#immediate)
  }

  #expired(): void {
    // Timers count in whole milliseconds of a clock that is read once a turn: they may come a little early.
    if (performance.now() < this.#deadlineMs) {
      this.arm()
      return
    }
    const fire = this.#fire
    this.#fire = undefined
    fire?.()
  }
}
