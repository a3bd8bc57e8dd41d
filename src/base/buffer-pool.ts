// Memory for the data of requests, used again and again. Fresh memory for each costs more than copying into it: Node.js
// collects garbage, the whole heap each time, after some 20 MiB of new array buffers. Measured with 1 MiB writes: 20 full
// collections a second, more than half of all processor time.
//
// Whoever takes a buffer owns it; whoever is its last user gives it back. One that is never given back is collected like any
// other object, so that giving back may be left out wherever it is not certain that nobody looks at the bytes any more.

import { assert } from './assert.ts'
import { KIB, MIB } from './units.ts'

const BLOCK_BYTES_MIN = 4 * KIB
const BLOCK_BYTES_MAX = MIB
const CLASSES = Math.log2(BLOCK_BYTES_MAX / BLOCK_BYTES_MIN) + 1
/** Small blocks are cut from pieces of this size. */
const PIECE_BYTES = 256 * KIB

/** A piece of memory; `whole` and the views of its beginning are what is lent. */
interface Block {
  readonly whole: Uint8Array
  readonly sizeClass: number
  lent: Uint8Array | undefined
}

export class BufferPool {
  readonly #freeBytesMax: number
  readonly #allocate: (lengthBytes: number) => Uint8Array
  readonly #free: Block[][] = Array.from({ length: CLASSES }, () => [])
  readonly #blockOf = new WeakMap<Uint8Array, Block>()
  #freeBytes = 0

  /** `freeBytesMax`: kept for later at most. `allocate`: fresh memory, need not be zeroed. */
  constructor(freeBytesMax: number, allocate = (lengthBytes: number): Uint8Array => new Uint8Array(lengthBytes)) {
    this.#freeBytesMax = freeBytesMax
    this.#allocate = allocate
  }

  get freeBytes(): number {
    return this.#freeBytes
  }

  /** A buffer of exactly this length with arbitrary contents. */
  take(lengthBytes: number): Uint8Array {
    if (lengthBytes > BLOCK_BYTES_MAX) return this.#allocate(lengthBytes)
    const sizeClass = sizeClassOf(lengthBytes)
    const free = this.#free[sizeClass] as Block[]
    if (free.length === 0) this.#refill(sizeClass, free)
    const block = free.pop() as Block
    this.#freeBytes -= block.whole.length
    let bytes = block.whole
    if (bytes.length !== lengthBytes) {
      bytes = bytes.subarray(0, lengthBytes)
      this.#blockOf.set(bytes, block)
    }
    block.lent = bytes
    return bytes
  }

  /** Only by the owner, and nobody may look at the bytes afterwards. What does not come from this pool is left alone. */
  give(bytes: Uint8Array): void {
    const block = this.#blockOf.get(bytes)
    if (block === undefined) return
    assert(block.lent === bytes, 'a buffer is given back twice')
    block.lent = undefined
    if (this.#freeBytes + block.whole.length > this.#freeBytesMax) return
    this.#freeBytes += block.whole.length
    this.#free[block.sizeClass]?.push(block)
  }

  #refill(sizeClass: number, free: Block[]): void {
    const blockBytes = BLOCK_BYTES_MIN << sizeClass
    const piece = this.#allocate(Math.max(blockBytes, PIECE_BYTES))
    for (let at = 0; at < piece.length; at += blockBytes) {
      const whole = piece.subarray(at, at + blockBytes)
      const block = { whole, sizeClass, lent: undefined }
      this.#blockOf.set(whole, block)
      this.#freeBytes += blockBytes
      free.push(block)
    }
  }
}

function sizeClassOf(lengthBytes: number): number {
  if (lengthBytes <= BLOCK_BYTES_MIN) return 0
  return 32 - Math.clz32(lengthBytes - 1) - Math.log2(BLOCK_BYTES_MIN)
}
