// The bitmap in memory: one bit for each 4 KiB of the DRBD device, 1 = this block may differ from the peer.
//
//   bit b      sectors 8b to 8b+7; bit (b mod 8) of byte (b / 8) of the bitmap area: little-endian words of any size
//   bits       ceil(device sectors / 8); what follows up to the end of the last 4 KiB block is padding, kept 0
//   block k    4 KiB of the bitmap area = 32768 bits = 128 MiB of the device; the unit in which the disk is written
//
// Beside the words there is a count of set bits for each block. So a range operation touches only the words at its ends
// and in blocks that change, and a search skips blocks that are empty or full.
// Source: metadata specification section 7; wire protocol specification section 3.17 (64-bit words on the wire).

import { assert } from '../base/assert.ts'
import { BLOCK_BYTES, divCeil, SECTORS_PER_BLOCK } from '../base/units.ts'

const BITS_PER_WORD = 32
const WORDS_PER_BLOCK = BLOCK_BYTES / 4
const BITS_PER_BLOCK = BLOCK_BYTES * 8
const WIRE_WORD_BYTES = 8
const ALL_ONES = 0xffff_ffff

// Words are read and written as bytes of the disk without swapping.
assert(new Uint8Array(Uint32Array.of(1).buffer)[0] === 1, 'this program needs a little-endian machine')

/** The bits of all blocks that a request touches, even partly: they get out of sync. */
export function blocksTouched(sector: number, sectors: number): [from: number, to: number] {
  const from = Math.floor(sector / SECTORS_PER_BLOCK)
  return [from, sectors === 0 ? from : divCeil(sector + sectors, SECTORS_PER_BLOCK)]
}

/**
 * The bits of all blocks that a request covers entirely: only they get in sync. The last, possibly short block of the
 * device counts if the request reaches the end. from >= to: none.
 */
export function blocksCovered(sector: number, sectors: number, deviceSectors: number): [from: number, to: number] {
  const end = sector + sectors
  const to = end >= deviceSectors ? divCeil(deviceSectors, SECTORS_PER_BLOCK) : Math.floor(end / SECTORS_PER_BLOCK)
  return [divCeil(sector, SECTORS_PER_BLOCK), sectors === 0 ? 0 : to]
}

export class Bitmap {
  readonly bits: number
  /** Bytes of the bitmap area in use: whole blocks. */
  readonly diskBytes: number
  readonly #words: Uint32Array
  /** Set bits of each block; their sum is `#count`. */
  readonly #blockCounts: Uint32Array
  readonly #dirty: Uint8Array
  #count = 0
  #dirtyBlocks = 0

  constructor(bits: number) {
    assert(Number.isSafeInteger(bits) && bits >= 0, `a bitmap cannot have ${bits} bits`)
    const blocks = divCeil(bits, BITS_PER_BLOCK)
    this.bits = bits
    this.diskBytes = blocks * BLOCK_BYTES
    this.#words = new Uint32Array(blocks * WORDS_PER_BLOCK)
    this.#blockCounts = new Uint32Array(blocks)
    this.#dirty = new Uint8Array(blocks)
  }

  /**
   * From the bytes of the bitmap area; padding, which may be 1 on disk, is left out. Bits for which there are no bytes
   * are set: nothing is known of their blocks. No block is dirty, but for those.
   */
  static fromDisk(bits: number, bytes: Uint8Array): Bitmap {
    const bitmap = new Bitmap(bits)
    const known = Math.min(bytes.length, divCeil(bits, 8))
    const target = new Uint8Array(bitmap.#words.buffer)
    target.set(bytes.subarray(0, known))
    const tail = bits % 8
    if (tail !== 0 && known === divCeil(bits, 8)) {
      target[known - 1] = (target[known - 1] as number) & ((1 << tail) - 1)
    }
    bitmap.#recount()
    bitmap.set(Math.min(known * 8, bits), bits)
    return bitmap
  }

  /** Number of set bits. */
  get count(): number {
    return this.#count
  }

  /** Number of 4 KiB blocks that changed since they were last taken. */
  get dirtyBlocks(): number {
    return this.#dirtyBlocks
  }

  /** Returns how many bits were newly set. */
  set(from: number, toExclusive: number): number {
    this.#assertRange(from, toExclusive)
    let newlySet = 0
    for (let at = from; at < toExclusive; ) {
      const block = Math.floor(at / BITS_PER_BLOCK)
      const start = block * BITS_PER_BLOCK
      const end = Math.min(toExclusive, start + BITS_PER_BLOCK)
      if (this.#blockCounts[block] !== this.#bitsOfBlock(block)) newlySet += this.#setInBlock(block, at, end)
      at = end
    }
    return newlySet
  }

  /** Returns how many bits were newly cleared. */
  clear(from: number, toExclusive: number): number {
    this.#assertRange(from, toExclusive)
    let newlyCleared = 0
    for (let at = from; at < toExclusive; ) {
      const block = Math.floor(at / BITS_PER_BLOCK)
      const start = block * BITS_PER_BLOCK
      const end = Math.min(toExclusive, start + BITS_PER_BLOCK)
      if (this.#blockCounts[block] !== 0) newlyCleared += this.#clearInBlock(block, at, end)
      at = end
    }
    return newlyCleared
  }

  setAll(): void {
    this.set(0, this.bits)
  }

  clearAll(): void {
    this.clear(0, this.bits)
  }

  isSet(bit: number): boolean {
    assert(bit >= 0 && bit < this.bits, `bit ${bit} is not one of ${this.bits}`)
    return ((this.#words[Math.floor(bit / BITS_PER_WORD)] as number) & (1 << (bit & 31))) !== 0
  }

  anySet(from: number, toExclusive: number): boolean {
    this.#assertRange(from, toExclusive)
    return from < toExclusive && this.#search(from, toExclusive, 0) < toExclusive
  }

  /** The first set bit at or after `from`; `bits` if there is none. */
  nextSet(from: number): number {
    return from >= this.bits ? this.bits : this.#search(from, this.bits, 0)
  }

  /** The first clear bit at or after `from`; `bits` if there is none. */
  nextClear(from: number): number {
    return from >= this.bits ? this.bits : this.#search(from, this.bits, ALL_ONES)
  }

  countRange(from: number, toExclusive: number): number {
    this.#assertRange(from, toExclusive)
    let count = 0
    for (let at = from; at < toExclusive; ) {
      const block = Math.floor(at / BITS_PER_BLOCK)
      const start = block * BITS_PER_BLOCK
      const end = Math.min(toExclusive, start + BITS_PER_BLOCK)
      const whole = at === start && end === Math.min(start + BITS_PER_BLOCK, this.bits)
      count += whole ? (this.#blockCounts[block] as number) : this.#countInBlock(at, end)
      at = end
    }
    return count
  }

  /** A copy of `words` little-endian 64-bit words from word `wordFrom` on, as they go over the wire. */
  readWords(wordFrom: number, words: number): Uint8Array {
    const wordsTotal = divCeil(this.bits, WIRE_WORD_BYTES * 8)
    assert(wordFrom >= 0 && words >= 0 && wordFrom + words <= wordsTotal, `words ${wordFrom}+${words} of ${wordsTotal}`)
    return this.#bytes(wordFrom * WIRE_WORD_BYTES, words * WIRE_WORD_BYTES).slice()
  }

  /**
   * Sets the bits that are 1 in `bytes`, little-endian 64-bit words as they came over the wire, the first for word
   * `wordFrom`. Bits beyond the end are ignored. Returns how many were newly set.
   */
  orWords(wordFrom: number, bytes: Uint8Array): number {
    const from = wordFrom * WIRE_WORD_BYTES * 8
    const bitsGiven = Math.min(bytes.length * 8, this.bits - from)
    let newlySet = 0
    for (let at = 0; at < bitsGiven; at += BITS_PER_WORD) {
      const word = littleEndianWord(bytes, at / 8) & lowMask(Math.min(BITS_PER_WORD, bitsGiven - at))
      if (word !== 0) newlySet += this.#orWord((from + at) / BITS_PER_WORD, word)
    }
    return newlySet
  }

  /** Ascending indices of the blocks that changed since they were last taken; they are clean from now on. */
  takeDirtyBlocks(): number[] {
    const taken: number[] = []
    if (this.#dirtyBlocks === 0) return taken
    for (let at = this.#dirty.indexOf(1); at !== -1; at = this.#dirty.indexOf(1, at + 1)) {
      taken.push(at)
      this.#dirty[at] = 0
    }
    this.#dirtyBlocks = 0
    return taken
  }

  blockIsDirty(index: number): boolean {
    return this.#dirty[index] === 1
  }

  markClean(index: number): void {
    if (this.#dirty[index] !== 1) return
    this.#dirty[index] = 0
    this.#dirtyBlocks--
  }

  /** For a block whose write failed, or whose place on disk moved. */
  markDirty(index: number): void {
    assert(index >= 0 && index < this.#dirty.length, `block ${index} is not one of ${this.#dirty.length}`)
    if (this.#dirty[index] === 1) return
    this.#dirty[index] = 1
    this.#dirtyBlocks++
  }

  /** A copy of the 4096 bytes of a block, as they belong on disk. */
  block(index: number): Uint8Array {
    assert(index >= 0 && index < this.#dirty.length, `block ${index} is not one of ${this.#dirty.length}`)
    return this.#bytes(index * BLOCK_BYTES, BLOCK_BYTES).slice()
  }

  #setInBlock(block: number, from: number, to: number): number {
    const words = this.#words
    const wordLast = Math.floor((to - 1) / BITS_PER_WORD)
    let newlySet = 0
    for (let w = Math.floor(from / BITS_PER_WORD); w <= wordLast; w++) {
      const old = words[w] as number
      const added = maskOfWord(w, from, to) & ~old
      if (added === 0) continue
      words[w] = old | added
      newlySet += popCount(added)
    }
    if (newlySet > 0) this.#changed(block, newlySet)
    return newlySet
  }

  #clearInBlock(block: number, from: number, to: number): number {
    const words = this.#words
    const wordLast = Math.floor((to - 1) / BITS_PER_WORD)
    let newlyCleared = 0
    for (let w = Math.floor(from / BITS_PER_WORD); w <= wordLast; w++) {
      const old = words[w] as number
      const removed = maskOfWord(w, from, to) & old
      if (removed === 0) continue
      words[w] = old & ~removed
      newlyCleared += popCount(removed)
    }
    if (newlyCleared > 0) this.#changed(block, -newlyCleared)
    return newlyCleared
  }

  #countInBlock(from: number, to: number): number {
    const wordLast = Math.floor((to - 1) / BITS_PER_WORD)
    let count = 0
    for (let w = Math.floor(from / BITS_PER_WORD); w <= wordLast; w++) {
      count += popCount((this.#words[w] as number) & maskOfWord(w, from, to))
    }
    return count
  }

  #orWord(w: number, word: number): number {
    const old = this.#words[w] as number
    const added = word & ~old
    if (added === 0) return 0
    this.#words[w] = old | added
    const newlySet = popCount(added)
    this.#changed(Math.floor(w / WORDS_PER_BLOCK), newlySet)
    return newlySet
  }

  /**
   * The first bit from `from` on that is set (`flip` 0) or clear (`flip` all ones); `to` or a later one if there is none
   * before it. Padding is clear, so that no search for a clear bit goes beyond `bits`.
   */
  #search(from: number, to: number, flip: number): number {
    let word = Math.floor(from / BITS_PER_WORD)
    let candidate = ((this.#words[word] as number) ^ flip) & (ALL_ONES << (from & 31))
    const wordsEnd = divCeil(to, BITS_PER_WORD)
    while (candidate === 0) {
      word++
      if (word % WORDS_PER_BLOCK === 0) word = this.#skipBlocks(word / WORDS_PER_BLOCK, flip) * WORDS_PER_BLOCK
      if (word >= wordsEnd) return to
      candidate = (this.#words[word] as number) ^ flip
    }
    const lowest = 31 - Math.clz32(candidate & -candidate)
    return word * BITS_PER_WORD + lowest
  }

  /** The first block from `block` on that is not all clear (`flip` 0) or not all set. */
  #skipBlocks(block: number, flip: number): number {
    let at = block
    while (at < this.#blockCounts.length && this.#blockCounts[at] === (flip === 0 ? 0 : this.#bitsOfBlock(at))) at++
    return at
  }

  #changed(block: number, countDelta: number): void {
    this.#blockCounts[block] = (this.#blockCounts[block] as number) + countDelta
    this.#count += countDelta
    this.markDirty(block)
  }

  #recount(): void {
    this.#count = 0
    for (let block = 0; block < this.#blockCounts.length; block++) {
      const start = block * BITS_PER_BLOCK
      const count = this.#countInBlock(start, start + this.#bitsOfBlock(block))
      this.#blockCounts[block] = count
      this.#count += count
    }
  }

  #bitsOfBlock(block: number): number {
    return Math.min(BITS_PER_BLOCK, this.bits - block * BITS_PER_BLOCK)
  }

  #bytes(offsetBytes: number, lengthBytes: number): Uint8Array {
    return new Uint8Array(this.#words.buffer, offsetBytes, lengthBytes)
  }

  #assertRange(from: number, toExclusive: number): void {
    assert(from >= 0 && toExclusive <= this.bits, `bits ${from} to ${toExclusive} are not within ${this.bits}`)
  }
}

/** The bits of word `w` that lie in [from, to), which this word must touch. */
function maskOfWord(w: number, from: number, to: number): number {
  const start = w * BITS_PER_WORD
  const below = from > start ? ALL_ONES << (from - start) : ALL_ONES
  return to < start + BITS_PER_WORD ? below & lowMask(to - start) : below
}

/** The lowest `bits` bits, 1 to 32. */
function lowMask(bits: number): number {
  return ALL_ONES >>> (BITS_PER_WORD - bits)
}

function popCount(word: number): number {
  let x = word - ((word >>> 1) & 0x5555_5555)
  x = (x & 0x3333_3333) + ((x >>> 2) & 0x3333_3333)
  return Math.imul((x + (x >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24
}

/** Bytes beyond the end count as 0. */
function littleEndianWord(bytes: Uint8Array, at: number): number {
  return (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24)
}
