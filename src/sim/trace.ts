// The trace of a run: one line for each event, folded into a hash (two runs of one seed must have the same) and kept in a
// ring of the last lines, which a failure prints. The lines themselves are only formatted when somebody wants them.

const LINES_KEPT = 200

export class Trace {
  #low = 0x811c9dc5
  #high = 0x9e3779b9
  #count = 0
  readonly #timesUs: number[] = []
  readonly #texts: string[] = []
  #onLine: ((line: string) => void) | undefined

  /** Calls `onLine` for every line from now on (`sim --trace`). */
  follow(onLine: (line: string) => void): void {
    this.#onLine = onLine
  }

  record(atUs: number, text: string): void {
    let low = Math.imul(this.#low ^ (atUs >>> 0), 0x01000193)
    let high = this.#high
    for (let i = 0; i < text.length; i++) {
      low = Math.imul(low ^ text.charCodeAt(i), 0x01000193)
      high = (Math.imul(high, 0x85ebca6b) + low) | 0
    }
    this.#low = low
    this.#high = (Math.imul(high, 0x85ebca6b) + low) | 0
    const slot = this.#count++ % LINES_KEPT
    this.#timesUs[slot] = atUs
    this.#texts[slot] = text
    this.#onLine?.(formatLine(atUs, text))
  }

  get count(): number {
    return this.#count
  }

  /** 16 hexadecimal digits over all lines so far. */
  get hash(): string {
    return hex(this.#high) + hex(this.#low)
  }

  /** The last lines, oldest first. */
  last(linesMax: number): string[] {
    const lines: string[] = []
    const kept = Math.min(linesMax, this.#count, LINES_KEPT)
    for (let i = this.#count - kept; i < this.#count; i++) {
      const slot = i % LINES_KEPT
      lines.push(formatLine(this.#timesUs[slot] ?? 0, this.#texts[slot] ?? ''))
    }
    return lines
  }
}

/** A hash of bytes for trace lines: two runs that differ only in content differ in their traces as well. */
export const hashBytes = (bytes: Uint8Array): string => hex(hashOf(bytes))

/** The same as a number, for who only wants to know whether bytes have changed. */
export function hashOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5 ^ bytes.length
  const fours = bytes.length - (bytes.length % 4)
  const view = new DataView(bytes.buffer, bytes.byteOffset, fours)
  for (let i = 0; i < fours; i += 4) {
    // The shift brings differences in high bits down, which multiplication alone never does.
    hash = Math.imul(hash ^ view.getInt32(i, true), 0x85ebca6b)
    hash ^= hash >>> 15
  }
  for (let i = fours; i < bytes.length; i++) hash = Math.imul(hash ^ (bytes[i] as number), 0x01000193)
  return hash
}

const hex = (value: number): string => (value >>> 0).toString(16).padStart(8, '0')

function formatLine(atUs: number, text: string): string {
  return `${(atUs / 1000).toFixed(3).padStart(12)} ms  ${text}`
}
