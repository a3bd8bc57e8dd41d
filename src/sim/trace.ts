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

  get isFollowed(): boolean {
    return this.#onLine !== undefined
  }

  /** A line for who follows, and for nobody else: not an event, and not in the hash. */
  show(atUs: number, text: string): void {
    this.#onLine?.(formatLine(atUs, text))
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

/**
 * The same as a number, for who only wants to know whether bytes have changed. Four lanes beside each other, because each step
 * of one waits for the step before.
 */
export function hashOf(bytes: Uint8Array): number {
  const { length } = bytes
  const view = new DataView(bytes.buffer, bytes.byteOffset, length)
  let a = 0x811c9dc5 ^ length
  let b = a ^ 0x9e3779b9
  let c = a ^ 0x7f4a7c15
  let d = a ^ 0x94d049bb
  let at = 0
  for (; at + 16 <= length; at += 16) {
    a = mix(a, view.getInt32(at, true))
    b = mix(b, view.getInt32(at + 4, true))
    c = mix(c, view.getInt32(at + 8, true))
    d = mix(d, view.getInt32(at + 12, true))
  }
  let hash = mix(mix(mix(a, b), c), d)
  for (; at + 4 <= length; at += 4) hash = mix(hash, view.getInt32(at, true))
  for (; at < length; at++) hash = mix(hash, bytes[at] as number)
  return hash
}

/** The shift brings differences in high bits down, which multiplication alone never does. */
function mix(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0x85ebca6b)
  return mixed ^ (mixed >>> 15)
}

const hex = (value: number): string => (value >>> 0).toString(16).padStart(8, '0')

function formatLine(atUs: number, text: string): string {
  return `${(atUs / 1000).toFixed(3).padStart(12)} ms  ${text}`
}
