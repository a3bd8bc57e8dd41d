// Waiting with a bound: a test never hangs, and says what it waited for.

export class NotInTimeError extends Error {
  override readonly name = 'NotInTimeError'
}

/** The promise, or a rejection after `timeoutMs` that says what did not come. */
export function within<T>(timeoutMs: number, what: string | (() => string), promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new NotInTimeError(`not within ${timeoutMs} ms: ${typeof what === 'string' ? what : what()}`))
    }, timeoutMs)
    promise.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}

interface Waiter {
  readonly holds: () => boolean
  readonly resolve: () => void
}

/** A place where waiters hear that something may have changed. */
export class Changes {
  readonly #waiters = new Set<Waiter>()
  #reviewing = false

  /** Something changed: the waiters look again at the end of this turn. */
  tell(): void {
    if (this.#reviewing || this.#waiters.size === 0) return
    this.#reviewing = true
    setImmediate(() => {
      this.#reviewing = false
      for (const waiter of this.#waiters) {
        if (!waiter.holds()) continue
        this.#waiters.delete(waiter)
        waiter.resolve()
      }
    })
  }

  async until(holds: () => boolean, timeoutMs: number, what: string | (() => string)): Promise<void> {
    if (holds()) return
    let waiter: Waiter | undefined
    const come = new Promise<void>((resolve) => {
      waiter = { holds, resolve }
      this.#waiters.add(waiter)
    })
    try {
      await within(timeoutMs, what, come)
    } finally {
      if (waiter !== undefined) this.#waiters.delete(waiter)
    }
  }
}
