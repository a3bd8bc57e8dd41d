// The clock of one simulated host: virtual time from an arbitrary start, a little too fast or too slow, with wake-ups that
// come at their deadline or somewhat after it, as a loaded machine's do. Two hosts never agree on the time.

import { assert } from '../base/assert.ts'
import type { Prng } from '../base/prng.ts'
import type { Clock } from '../runtime/ports.ts'
import type { Life, Scheduled, Scheduler } from './scheduler.ts'

export interface ClockConfig {
  /** What the clock shows when the world starts. */
  readonly startUs: number
  /** How much faster than true time the clock runs, parts per million; negative: slower. */
  readonly ratePpm: number
  /** A wake-up comes at most this long after its deadline. */
  readonly lateUsMax: number
}

export class SimClock implements Clock {
  readonly #scheduler: Scheduler
  readonly #prng: Prng
  readonly #config: ClockConfig
  readonly #life: Life
  readonly #label: string

  constructor(scheduler: Scheduler, prng: Prng, config: ClockConfig, owner: { host: string; life: Life }) {
    assert(config.ratePpm > -1_000_000, `clock rate ${config.ratePpm} ppm stands still`)
    this.#scheduler = scheduler
    this.#prng = prng
    this.#config = config
    this.#life = owner.life
    this.#label = `${owner.host} wake-up`
  }

  nowMs(): number {
    return this.#localUs() / 1000
  }

  wakeAt(deadlineMs: number, fire: () => void): { cancel(): void } {
    assert(!Number.isNaN(deadlineMs), 'wake-up at NaN')
    if (deadlineMs === Number.POSITIVE_INFINITY) return { cancel: () => {} }
    const handle = { scheduled: undefined as Scheduled | undefined, cancel: () => handle.scheduled?.cancel() }
    const lateUs = this.#prng.intInclusive(0, this.#config.lateUsMax)
    const schedule = (extraUs: number): void => {
      const leftUs = Math.max(0, Math.ceil(deadlineMs * 1000) - this.#localUs())
      const delayUs = Math.ceil((leftUs * 1_000_000) / (1_000_000 + this.#config.ratePpm)) + extraUs
      handle.scheduled = this.#scheduler.after(delayUs, this.#label, () => {
        if (!this.#life.alive) return
        // The rounding of a slow clock may be one microsecond short: never fire before the deadline.
        if (this.nowMs() < deadlineMs) schedule(1)
        else fire()
      })
    }
    schedule(lateUs)
    return handle
  }

  #localUs(): number {
    const nowUs = this.#scheduler.nowUs
    const drift =
      Math.floor(nowUs / 1_000_000) * this.#config.ratePpm +
      Math.floor(((nowUs % 1_000_000) * this.#config.ratePpm) / 1_000_000)
    return this.#config.startUs + nowUs + drift
  }
}
