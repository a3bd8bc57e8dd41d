// The heart of the simulator: a queue of events ordered by (virtual time, sequence number). Nothing in a simulated world
// happens outside an event, and nothing decides an order but this queue. Time is an integer number of microseconds.

import { assert } from '../base/assert.ts'
import type { Trace } from './trace.ts'

export interface Scheduled {
  cancel(): void
}

/**
 * What a process of a host is alive in: its timers, sockets and disk completions are tied to it, and a crash ends them all
 * at once.
 */
export interface Life {
  alive: boolean
}

class Entry implements Scheduled {
  readonly atUs: number
  readonly sequence: number
  readonly label: string
  fire: (() => void) | undefined

  constructor(atUs: number, sequence: number, label: string, fire: () => void) {
    this.atUs = atUs
    this.sequence = sequence
    this.label = label
    this.fire = fire
  }

  cancel(): void {
    this.fire = undefined
  }
}

export class Scheduler {
  readonly trace: Trace
  readonly #heap: Entry[] = []
  #nowUs = 0
  #sequence = 0
  #steps = 0

  constructor(trace: Trace) {
    this.trace = trace
  }

  get nowUs(): number {
    return this.#nowUs
  }

  /** Events executed so far. */
  get steps(): number {
    return this.#steps
  }

  after(delayUs: number, label: string, fire: () => void): Scheduled {
    assert(Number.isSafeInteger(delayUs) && delayUs >= 0, `delay of ${label} is ${delayUs} us`)
    const entry = new Entry(this.#nowUs + delayUs, this.#sequence++, label, fire)
    this.#heap.push(entry)
    siftUp(this.#heap)
    return entry
  }

  /** Time of the next event; undefined if nothing will ever happen again. */
  nextAtUs(): number | undefined {
    this.#dropCancelled()
    return this.#heap[0]?.atUs
  }

  /** Executes the next event; false if there is none. */
  runNext(): boolean {
    this.#dropCancelled()
    const entry = this.#heap[0]
    if (entry?.fire === undefined) return false
    removeFirst(this.#heap)
    this.#nowUs = entry.atUs
    this.#steps++
    this.trace.record(entry.atUs, entry.label)
    entry.fire()
    return true
  }

  /** Lets time pass up to `atUs`, before which no event may be left. */
  advanceTo(atUs: number): void {
    const nextAtUs = this.nextAtUs()
    assert(nextAtUs === undefined || nextAtUs >= atUs, `an event at ${nextAtUs} us is left before ${atUs} us`)
    if (atUs > this.#nowUs) this.#nowUs = atUs
  }

  /** A line in the trace that is not an event of the queue. */
  note(text: string): void {
    this.trace.record(this.#nowUs, text)
  }

  #dropCancelled(): void {
    while (this.#heap.length > 0 && this.#heap[0]?.fire === undefined) removeFirst(this.#heap)
  }
}

const isBefore = (a: Entry, b: Entry): boolean => a.atUs < b.atUs || (a.atUs === b.atUs && a.sequence < b.sequence)

function siftUp(heap: Entry[]): void {
  let index = heap.length - 1
  const entry = heap[index] as Entry
  while (index > 0) {
    const parent = (index - 1) >> 1
    const above = heap[parent] as Entry
    if (!isBefore(entry, above)) break
    heap[index] = above
    index = parent
  }
  heap[index] = entry
}

function removeFirst(heap: Entry[]): void {
  const last = heap.pop()
  if (last === undefined || heap.length === 0) return
  let index = 0
  for (;;) {
    let child = 2 * index + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && isBefore(heap[child + 1] as Entry, heap[child] as Entry)) child++
    if (!isBefore(heap[child] as Entry, last)) break
    heap[index] = heap[child] as Entry
    index = child
  }
  heap[index] = last
}
