// Received bytes that are not consumed yet: the chunks as they came from the socket, never joined. Positions count from the
// first unconsumed byte.

import { assert } from '../../base/assert.ts'

/** Enough for any header together with the fixed part of any packet. */
const SCRATCH_BYTES = 256
const EMPTY = new Uint8Array(0)

export class ChunkQueue {
  /** Chunks before `#first` are consumed, of chunk `#first` the bytes before `#offset`. */
  readonly #chunks: Uint8Array[] = []
  #first = 0
  #offset = 0
  #bufferedBytes = 0
  /** View of chunk `#first`, made when it is first needed. */
  #firstView: DataView | undefined
  readonly #scratch = new Uint8Array(SCRATCH_BYTES)
  readonly #scratchView = new DataView(this.#scratch.buffer)
  /** Result of the last `locate`. */
  view: DataView = this.#scratchView
  viewAt = 0

  get bufferedBytes(): number {
    return this.#bufferedBytes
  }

  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    this.#chunks.push(chunk)
    this.#bufferedBytes += chunk.length
  }

  /** Makes `view` show the bytes from `at` on at `viewAt`; valid until the next call. Copies only what crosses chunks. */
  locate(at: number, lengthBytes: number): void {
    assert(at + lengthBytes <= this.#bufferedBytes, 'bytes are looked at that have not been received')
    const chunk = this.#chunks[this.#first]
    if (chunk !== undefined && this.#offset + at + lengthBytes <= chunk.length) {
      this.#firstView ??= new DataView(chunk.buffer, chunk.byteOffset, chunk.length)
      this.view = this.#firstView
      this.viewAt = this.#offset + at
      return
    }
    assert(lengthBytes <= SCRATCH_BYTES, 'the scratch buffer is too small')
    this.#copy(at, lengthBytes, this.#scratch)
    this.view = this.#scratchView
    this.viewAt = 0
  }

  /** A view of the chunk that holds all these bytes, or else a copy of them. */
  bytes(at: number, lengthBytes: number): Uint8Array {
    if (lengthBytes === 0) return EMPTY
    assert(at + lengthBytes <= this.#bufferedBytes, 'bytes are taken that have not been received')
    let index = this.#first
    let start = this.#offset + at
    let chunk = this.#chunks[index] as Uint8Array
    while (start >= chunk.length) {
      start -= chunk.length
      index++
      chunk = this.#chunks[index] as Uint8Array
    }
    if (start + lengthBytes <= chunk.length) return new Uint8Array(chunk.buffer, chunk.byteOffset + start, lengthBytes)
    const copy = new Uint8Array(lengthBytes)
    this.#copy(at, lengthBytes, copy)
    return copy
  }

  consume(lengthBytes: number): void {
    assert(lengthBytes <= this.#bufferedBytes, 'bytes are consumed that have not been received')
    this.#bufferedBytes -= lengthBytes
    this.#offset += lengthBytes
    let chunk = this.#chunks[this.#first]
    while (chunk !== undefined && this.#offset >= chunk.length) {
      this.#offset -= chunk.length
      this.#chunks[this.#first] = EMPTY // lets go of its memory
      this.#first++
      this.#firstView = undefined
      chunk = this.#chunks[this.#first]
    }
    if (this.#first === this.#chunks.length) {
      this.#chunks.length = 0
      this.#first = 0
    } else if (this.#first >= 64 && this.#first * 2 >= this.#chunks.length) {
      this.#chunks.splice(0, this.#first)
      this.#first = 0
    }
  }

  #copy(at: number, lengthBytes: number, target: Uint8Array): void {
    let index = this.#first
    let start = this.#offset + at
    let copied = 0
    while (copied < lengthBytes) {
      const chunk = this.#chunks[index] as Uint8Array
      if (start >= chunk.length) {
        start -= chunk.length
      } else {
        const end = Math.min(chunk.length, start + lengthBytes - copied)
        target.set(new Uint8Array(chunk.buffer, chunk.byteOffset + start, end - start), copied)
        copied += end - start
        start = 0
      }
      index++
    }
  }
}
