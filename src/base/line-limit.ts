// Keeps a log readable when somebody from outside decides how many lines there are: so many in a while, then none but a count.

export class LineLimit {
  readonly #linesMax: number
  readonly #windowMs: number
  #windowStartMs = Number.NEGATIVE_INFINITY
  #lines = 0
  #leftOut = 0

  constructor(limit: { readonly linesMax: number; readonly windowMs: number }) {
    this.#linesMax = limit.linesMax
    this.#windowMs = limit.windowMs
  }

  /** The line, with the number of those that were left out before it; undefined: this one is left out as well. */
  admit(line: string, nowMs: number): string | undefined {
    if (nowMs - this.#windowStartMs >= this.#windowMs) {
      this.#windowStartMs = nowMs
      this.#lines = 0
    }
    if (this.#lines >= this.#linesMax) {
      this.#leftOut++
      return undefined
    }
    this.#lines++
    const leftOut = this.#leftOut
    this.#leftOut = 0
    return leftOut === 0 ? line : `${line} (and ${leftOut} more of this kind before)`
  }
}

/** For what strangers do at a port. */
export const STRANGER_LINES = { linesMax: 20, windowMs: 60_000 } as const
