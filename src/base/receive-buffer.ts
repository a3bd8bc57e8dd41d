// Received bytes that are not used yet, in one piece of memory that is used again and again: a socket reads into `room`, a
// parser looks at `bytes` (or `view`) from `at` on. Whoever keeps some of it copies it out.
//
//   | used | unused: lengthBytes | room |
//          at                    end
//
// Nothing moves but in `room` and `push`: a place given out by `room` stays good until `filled`, whatever is used up meanwhile.

import { assert } from './assert.ts'
import { KIB } from './units.ts'

/** As soon as a socket reads into it. */
const CAPACITY_BYTES = 256 * KIB
/** What is pushed may be little: a simulator has thousands of connections, most of them short. */
const CAPACITY_BYTES_MIN = 4 * KIB
/** With less room than this the unused bytes move to the front, so that a large transfer is never read in small pieces. */
const ROOM_BYTES_MIN = 64 * KIB

export class ReceiveBuffer {
  #bytes: Uint8Array = new Uint8Array(CAPACITY_BYTES_MIN)
  #view = new DataView(this.#bytes.buffer)
  #at = 0
  #end = 0

  get bytes(): Uint8Array {
    return this.#bytes
  }

  get view(): DataView {
    return this.#view
  }

  /** Place of the first unused byte. */
  get at(): number {
    return this.#at
  }

  get lengthBytes(): number {
    return this.#end - this.#at
  }

  /** Where the next received bytes may be put; never empty. */
  room(): Uint8Array {
    if (this.#bytes.length < CAPACITY_BYTES) this.#growTo(CAPACITY_BYTES)
    this.#makeRoom(ROOM_BYTES_MIN)
    return this.#end === 0 ? this.#bytes : this.#bytes.subarray(this.#end)
  }

  /** So many bytes were put at the beginning of what the last `room` gave. */
  filled(lengthBytes: number): void {
    assert(this.#end + lengthBytes <= this.#bytes.length, 'more bytes were received than there was room for')
    this.#end += lengthBytes
  }

  /** Copies received bytes in, as many as there are. */
  push(chunk: Uint8Array): void {
    this.#makeRoom(chunk.length)
    this.#bytes.set(chunk, this.#end)
    this.#end += chunk.length
  }

  /** The next bytes have been used. */
  consume(lengthBytes: number): void {
    assert(lengthBytes <= this.lengthBytes, 'bytes are consumed that have not been received')
    this.#at += lengthBytes
  }

  /** Takes back what was received last: whoever calls has copied it out. Not between `room` and `filled`. */
  dropLast(lengthBytes: number): void {
    assert(lengthBytes <= this.lengthBytes, 'bytes are dropped that have not been received')
    this.#end -= lengthBytes
  }

  /** Copies the next bytes into `target` from `from` on, as many as there are and fit, and uses them up; the number. */
  moveInto(target: Uint8Array, from: number): number {
    const lengthBytes = Math.min(this.lengthBytes, target.length - from)
    target.set(this.#bytes.subarray(this.#at, this.#at + lengthBytes), from)
    this.#at += lengthBytes
    return lengthBytes
  }

  #makeRoom(lengthBytes: number): void {
    if (this.#at === this.#end) {
      this.#at = 0
      this.#end = 0
    }
    if (this.#bytes.length - this.#end >= lengthBytes) return
    const unusedBytes = this.lengthBytes
    if (this.#bytes.length - unusedBytes < lengthBytes) {
      this.#growTo(2 * Math.max(this.#bytes.length, unusedBytes + lengthBytes))
      return
    }
    this.#bytes.copyWithin(0, this.#at, this.#end)
    this.#at = 0
    this.#end = unusedBytes
  }

  #growTo(capacityBytes: number): void {
    const larger = new Uint8Array(capacityBytes)
    larger.set(this.#bytes.subarray(this.#at, this.#end))
    this.#end = this.lengthBytes
    this.#at = 0
    this.#bytes = larger
    this.#view = new DataView(larger.buffer)
  }
}
