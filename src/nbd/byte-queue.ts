// Received bytes that are not used yet. Gives out views of the received chunks where it can; copies only what lies
// across chunks.

import { assert } from '../base/assert.ts'

const NOTHING = new Uint8Array(0)

export class ByteQueue {
  /** The oldest chunk is `#chunks[#head]`; `#at` is the first unused byte in it. */
  #chunks: Uint8Array[] = []
  #head = 0
  #at = 0
  #lengthBytes = 0
  #header: Uint8Array = NOTHING

  get lengthBytes(): number {
    return this.#lengthBytes
  }

  /** The chunk belongs to the queue from now on. */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    this.#chunks.push(chunk)
    this.#lengthBytes += chunk.length
  }

  /** Where `takeHeader` found its bytes. */
  get header(): Uint8Array {
    return this.#header
  }

  /** Uses up the next bytes, which must be there; they begin at the result in `header`. No view is made of them. */
  takeHeader(lengthBytes: number): number {
    const chunk = this.#chunks[this.#head]
    if (chunk === undefined || chunk.length - this.#at < lengthBytes) {
      this.#header = this.take(lengthBytes)
      return 0
    }
    const at = this.#at
    this.#header = chunk
    this.#advance(chunk, lengthBytes)
    return at
  }

  /** The next four bytes as a number; they must be there and stay in the queue. */
  peekU32(): number {
    let value = 0
    let index = this.#head
    let at = this.#at
    for (let i = 0; i < 4; i++) {
      let chunk = this.#chunks[index] as Uint8Array
      while (at === chunk.length) {
        index += 1
        at = 0
        chunk = this.#chunks[index] as Uint8Array
      }
      value = value * 256 + (chunk[at] as number)
      at += 1
    }
    return value
  }

  /** Whether the next bytes lie in one chunk, so that `take` gives them out without a copy. */
  isContiguous(lengthBytes: number): boolean {
    const chunk = this.#chunks[this.#head]
    return chunk !== undefined && chunk.length - this.#at >= lengthBytes
  }

  /** The next bytes, which must be there: a view of the chunk, or a copy if they lie across chunks. */
  take(lengthBytes: number): Uint8Array {
    if (this.isContiguous(lengthBytes)) {
      const chunk = this.#chunks[this.#head] as Uint8Array
      const view = chunk.subarray(this.#at, this.#at + lengthBytes)
      this.#advance(chunk, lengthBytes)
      return view
    }
    const copy = new Uint8Array(lengthBytes)
    const copied = this.copyInto(copy, 0)
    assert(copied === lengthBytes, `took ${lengthBytes} bytes of ${copied}`)
    return copy
  }

  /** Fills `target` from `from` on with as much as there is; the number of bytes. */
  copyInto(target: Uint8Array, from: number): number {
    let to = from
    while (to < target.length) {
      const chunk = this.#chunks[this.#head]
      if (chunk === undefined) break
      const lengthBytes = Math.min(chunk.length - this.#at, target.length - to)
      target.set(lengthBytes === chunk.length ? chunk : chunk.subarray(this.#at, this.#at + lengthBytes), to)
      this.#advance(chunk, lengthBytes)
      to += lengthBytes
    }
    return to - from
  }

  /** Drops up to so many bytes; the number of bytes. */
  skip(lengthBytes: number): number {
    let left = lengthBytes
    while (left > 0) {
      const chunk = this.#chunks[this.#head]
      if (chunk === undefined) break
      const step = Math.min(chunk.length - this.#at, left)
      this.#advance(chunk, step)
      left -= step
    }
    return lengthBytes - left
  }

  clear(): void {
    this.#chunks = []
    this.#head = 0
    this.#at = 0
    this.#lengthBytes = 0
    this.#header = NOTHING
  }

  #advance(chunk: Uint8Array, lengthBytes: number): void {
    this.#at += lengthBytes
    this.#lengthBytes -= lengthBytes
    if (this.#at < chunk.length) return
    this.#at = 0
    this.#head += 1
    if (this.#head < this.#chunks.length) return
    this.#chunks.length = 0
    this.#head = 0
  }
}
