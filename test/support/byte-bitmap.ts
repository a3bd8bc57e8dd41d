// A bitmap for tests of the bitmap transfer: one byte for each bit, simple so that it is right.

import assert from 'node:assert/strict'
import type { WordSource } from '../../src/wire/drbd/bitmap-codec.ts'

export class ByteBitmap implements WordSource {
  readonly bits: number
  readonly #set: Uint8Array

  constructor(bits: number) {
    this.bits = bits
    this.#set = new Uint8Array(bits)
  }

  set(from: number, to: number): void {
    assert.ok(from < to && to <= this.bits, `${from} to ${to} of ${this.bits}`)
    this.#set.fill(1, from, to)
  }

  nextSet(from: number): number {
    const found = this.#set.indexOf(1, from)
    return found < 0 ? this.bits : found
  }

  nextClear(from: number): number {
    const found = this.#set.indexOf(0, from)
    return found < 0 ? this.bits : found
  }

  readWords(wordFrom: number, words: number): Uint8Array {
    const bytes = new Uint8Array(8 * words)
    for (let bit = 0; bit < 64 * words; bit++) {
      if (this.#set[64 * wordFrom + bit] === 1) bytes[bit >>> 3] = (bytes[bit >>> 3] as number) | (1 << (bit & 7))
    }
    return bytes
  }

  runs(): string {
    const runs: string[] = []
    for (let from = this.nextSet(0); from < this.bits; ) {
      const to = this.nextClear(from)
      runs.push(`${from}-${to - 1}`)
      from = this.nextSet(to)
    }
    return runs.join(' ')
  }
}
