// What the peer has acknowledged but may still lose with its disk cache. A write acknowledgement says "on my disk", not
// "durable". So every replicated write marks its blocks here; an empty flush sent to the peer and acknowledged by it (it
// waits for all earlier writes of the stream, then fdatasync) unmarks those that were marked before it was sent. If the
// peer is lost, what is still marked becomes out of sync.
//
// Two generations are enough, because one flush runs at a time: blocks marked before the running flush, and after it.

import { assert } from '../base/assert.ts'
import { Bitmap } from '../meta/bitmap.ts'

export class Stability {
  /** Generation in which writes are marked now; grows with each flush that is sent. */
  writeGeneration = 1
  #stableGeneration = 0
  #marked: Bitmap
  #flushing: Bitmap
  #flushRunning = false

  constructor(bits: number) {
    this.#marked = new Bitmap(bits)
    this.#flushing = new Bitmap(bits)
  }

  /** Everything marked in this generation or before is stable on both hosts, or out of sync. */
  get stableGeneration(): number {
    return this.#marked.count === 0 && this.#flushing.count === 0 ? Number.POSITIVE_INFINITY : this.#stableGeneration
  }

  mark(fromBit: number, toBit: number): void {
    this.#marked.set(fromBit, toBit)
  }

  get anyMarked(): boolean {
    return this.#marked.count > 0
  }

  isMarked(bit: number): boolean {
    return this.#marked.isSet(bit) || this.#flushing.isSet(bit)
  }

  flushSent(): void {
    assert(!this.#flushRunning, 'one flush at a time')
    this.#flushRunning = true
    const swap = this.#flushing
    this.#flushing = this.#marked
    this.#marked = swap
    this.writeGeneration++
  }

  /** An answer to a flush that was sent before this disk was attached says nothing about it. */
  flushDone(): void {
    if (!this.#flushRunning) return
    this.#flushRunning = false
    this.#flushing.clearAll()
    this.#stableGeneration = this.writeGeneration - 1
  }

  /** The peer is lost: moves everything marked into the out-of-sync bitmap. Returns the bits that this set. */
  peerLost(outOfSync: Bitmap): number {
    const before = outOfSync.count
    for (const bitmap of [this.#marked, this.#flushing]) {
      copySetBits(bitmap, outOfSync)
      bitmap.clearAll()
    }
    this.#flushRunning = false
    this.#stableGeneration = this.writeGeneration
    this.writeGeneration++
    return outOfSync.count - before
  }

  /** The peer could not flush: nothing has become stable. */
  flushFailed(): void {
    if (!this.#flushRunning) return
    this.#flushRunning = false
    copySetBits(this.#flushing, this.#marked)
    this.#flushing.clearAll()
  }

  /** The device has another size now; what lies behind its end is forgotten. */
  resize(bits: number): void {
    const [marked, flushing] = [this.#marked, this.#flushing]
    this.#marked = new Bitmap(bits)
    this.#flushing = new Bitmap(bits)
    copySetBits(marked, this.#marked)
    copySetBits(flushing, this.#flushing)
  }
}

/** Sets in `to` what is set in `from`, as far as it reaches. */
export function copySetBits(from: Bitmap, to: Bitmap): void {
  for (let bit = from.nextSet(0); bit < Math.min(from.bits, to.bits); ) {
    const end = from.nextClear(bit)
    to.set(bit, Math.min(end, to.bits))
    bit = from.nextSet(end)
  }
}
