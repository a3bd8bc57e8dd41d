// The transfer of a bitmap (wire-protocol.md 3.17 and 3.18): plain words or run lengths, each packet decided anew.
//
//   P_BITMAP             | 64-bit words of the bitmap, as a little-endian byte stream |   4080 (h80: 4088) bytes, less at the end
//   P_COMPRESSED_BITMAP  | u8 encoding | code bytes |                                   at most as long as a page with its header
//
//   encoding: bits 0-3 = 2 (the only code), bits 4-6 = unused bits at the end of the last byte, bit 7 = value of the first run
//
// A code word is a prefix and data bits, both with the least significant bit first, and stands for the length of one run; the
// value of the bits changes from run to run:
//
// | prefix     | data bits | run lengths              | prefix     | data bits | run lengths                       |
// |------------|-----------|--------------------------|------------|-----------|-----------------------------------|
// | `0`        | 1         | 1 .. 2                   | `111110`   | 8         | 49 .. 304                         |
// | `10`       | 1         | 3 .. 4                   | `11111100` | 13        | 305 .. 8496                       |
// | `110`      | 2         | 5 .. 8                   | `11111110` | 21        | 8497 .. 2105648                   |
// | `1110`     | 3         | 9 .. 16                  | `11111101` | 34        | 2105649 .. 17181974832            |
// | `11110`    | 5         | 17 .. 48                 | `11111111` | 56        | 17181974833 .. 72057611219902768  |
//
// Both sides keep a position. A compressed packet starts at a bit; a plain one at a word: after a compressed packet that is the
// word of the bit, so up to 63 bits are sent twice. The transfer is complete with the compressed packet that ends at the last
// bit, or else with an empty P_BITMAP after the last word.

import { assert } from '../../base/assert.ts'
import { BITMAP_PACKET_BYTES_MAX, COMPRESSED_BITMAP_APV_MIN, headerBytes } from './constants.ts'
import { BitmapCodeError, BitmapLengthError, BitmapOvershootError, UnknownBitmapEncodingError } from './errors.ts'
import type { PacketOf } from './packets.ts'

export { BitmapCodeError, BitmapLengthError, BitmapOvershootError, UnknownBitmapEncodingError } from './errors.ts'

export interface BitSource {
  readonly bits: number
  /** The first set bit at or after `from`; `bits` if there is none. */
  nextSet(from: number): number
  /** The first clear bit at or after `from`; `bits` if there is none. */
  nextClear(from: number): number
}

export interface WordSource extends BitSource {
  /** 64-bit words as little-endian bytes, a copy that stays as it is; bits beyond the last are 0. */
  readWords(wordFrom: number, words: number): Uint8Array
}

type BodyOfPacket<P> = P extends unknown ? Omit<P, 'volume'> : never
/** A bitmap packet without its volume. */
export type BitmapPacketFields = BodyOfPacket<PacketOf<'P_BITMAP' | 'P_COMPRESSED_BITMAP'>>

const CODE_VLI = 2
const FIRST_RUN_SET = 0x80
const EMPTY = new Uint8Array(0)

// ---- sending --------------------------------------------------------------------------------------------------------

export interface BitmapTransferOptions {
  readonly apv: number
}

export interface BitmapSenderOptions extends BitmapTransferOptions {
  readonly useRle: boolean
}

/** One bitmap on its way out. The bitmap may change meanwhile: what is sent is what it holds when `next` is called. */
export class BitmapSender {
  readonly #source: WordSource
  readonly #codeBytesMax: number
  readonly #wordsMax: number
  readonly #useRle: boolean
  /** First bit that has not been sent. */
  #bit = 0
  #complete = false

  constructor(source: WordSource, options: BitmapSenderOptions) {
    this.#source = source
    this.#codeBytesMax = BITMAP_PACKET_BYTES_MAX - headerBytes(options.apv) - 1
    this.#wordsMax = wordsPerPacket(options.apv)
    this.#useRle = options.useRle && options.apv >= COMPRESSED_BITMAP_APV_MIN
  }

  /** The next packet of the transfer; undefined when it is complete. */
  next(): BitmapPacketFields | undefined {
    if (this.#complete) return undefined
    const bits = this.#source.bits
    if (this.#bit === bits) {
      this.#complete = true
      return { type: 'P_BITMAP', payload: EMPTY }
    }
    if (this.#useRle) {
      const code = encodeRuns(this.#source, this.#bit, this.#codeBytesMax)
      // Plain is shorter: the code is thrown away. Plain words begin at the word of the position.
      if (code.endBit - this.#bit >= 8 * code.payload.length) {
        this.#bit = code.endBit
        this.#complete = this.#bit === bits
        return { type: 'P_COMPRESSED_BITMAP', encoding: code.encoding, payload: code.payload }
      }
    }
    const word = Math.floor(this.#bit / 64)
    const words = Math.min(this.#wordsMax, Math.ceil(bits / 64) - word)
    this.#bit = Math.min(64 * (word + words), bits)
    const payload = this.#source.readWords(word, words)
    assert(payload.length === 8 * words, `${payload.length} bytes were read for ${words} words of the bitmap`)
    return { type: 'P_BITMAP', payload }
  }
}

/** Run lengths from `fromBit` on, as many as fit. */
export function encodeRuns(
  source: BitSource,
  fromBit: number,
  codeBytesMax: number,
): { readonly encoding: number; readonly payload: Uint8Array; readonly endBit: number } {
  const { bits } = source
  assert(fromBit < bits, `no run begins at bit ${fromBit} of ${bits}`)
  const writer = new CodeWriter(codeBytesMax)
  const firstRunSet = source.nextSet(fromBit) === fromBit
  let set = firstRunSet
  let bit = fromBit
  while (bit < bits) {
    const end = set ? source.nextClear(bit) : source.nextSet(bit)
    assert(end > bit && end <= bits, `the run at bit ${bit} of ${bits} ends at ${end}`)
    if (!writer.writeRun(end - bit)) break
    bit = end
    set = !set
  }
  const encoding = CODE_VLI | (writer.padBits << 4) | (firstRunSet ? FIRST_RUN_SET : 0)
  return { encoding, payload: writer.finish(), endBit: bit }
}

// ---- receiving ------------------------------------------------------------------------------------------------------

export type SetRange = (fromBit: number, toBitExclusive: number) => void

/** One bitmap on its way in. */
export class BitmapReceiver {
  readonly #bits: number
  readonly #wordsMax: number
  readonly #setRange: SetRange
  /** First bit that has not been received. */
  #bit = 0

  /** `setRange` is called for each run of set bits; some bits come twice. */
  constructor(bits: number, options: BitmapTransferOptions, setRange: SetRange) {
    this.#bits = bits
    this.#wordsMax = wordsPerPacket(options.apv)
    this.#setRange = setRange
  }

  /** Takes the next packet and says whether the transfer is complete. After an error the transfer is void. */
  onPacket(packet: BitmapPacketFields): boolean {
    return packet.type === 'P_BITMAP' ? this.#onPlain(packet.payload) : this.#onCompressed(packet)
  }

  #onPlain(payload: Uint8Array): boolean {
    const bits = this.#bits
    // The end of the transfer is due once all bits are there, also when they are no whole words.
    const word = this.#bit === bits ? Math.ceil(bits / 64) : Math.floor(this.#bit / 64)
    const words = Math.min(this.#wordsMax, Math.ceil(bits / 64) - word)
    const lengthBytes = payload.length
    if (lengthBytes !== 8 * words) throw new BitmapLengthError({ lengthBytes, lengthBytesExpected: 8 * words, bits })
    if (words === 0) return true
    setRangesOfWords(payload, 64 * word, bits, this.#setRange)
    this.#bit = Math.min(64 * (word + words), bits)
    return false
  }

  #onCompressed(packet: Omit<PacketOf<'P_COMPRESSED_BITMAP'>, 'volume'>): boolean {
    this.#bit = decodeRuns(packet, this.#bit, this.#bits, this.#setRange)
    return this.#bit === this.#bits
  }
}

/** Reads run lengths that begin at `fromBit`; returns the bit behind them. */
export function decodeRuns(
  code: { readonly encoding: number; readonly payload: Uint8Array },
  fromBit: number,
  bits: number,
  setRange: SetRange,
): number {
  const { encoding, payload } = code
  if ((encoding & 15) !== CODE_VLI) throw new UnknownBitmapEncodingError({ encoding })
  const reader = new CodeReader(payload, (encoding >>> 4) & 7)
  let set = (encoding & FIRST_RUN_SET) !== 0
  let bit = fromBit
  do {
    const runBits = reader.readRun()
    if (runBits > bits - bit) throw new BitmapOvershootError({ fromBit: bit, runBits, bits })
    if (set) setRange(bit, bit + runBits)
    bit += runBits
    set = !set
  } while (!reader.atEnd)
  return bit
}

function setRangesOfWords(payload: Uint8Array, firstBit: number, bits: number, setRange: SetRange): void {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length)
  let runStart = -1 // -1: no run of set bits is open
  for (let at = 0; at < payload.length; at += 4) {
    let word = view.getUint32(at, true)
    if (word === (runStart < 0 ? 0 : 0xffff_ffff)) continue // all bits go on as before
    let position = 0
    const base = firstBit + 8 * at
    while (position < 32) {
      // Bits that go on as before; the word is shifted so that the next bit to look at is the lowest.
      const same = Math.min(trailingZeroes(runStart < 0 ? word : ~word), 32 - position)
      position += same
      if (position === 32) break
      word >>>= same
      if (runStart < 0) {
        runStart = base + position
      } else {
        setClipped(runStart, base + position, bits, setRange)
        runStart = -1
      }
    }
  }
  if (runStart >= 0) setClipped(runStart, firstBit + 8 * payload.length, bits, setRange)
}

/** Bits beyond the last one are none (3.17). */
function setClipped(from: number, to: number, bits: number, setRange: SetRange): void {
  if (from < bits) setRange(from, Math.min(to, bits))
}

const trailingZeroes = (word: number): number => (word === 0 ? 32 : 31 - Math.clz32(word & -word))

const wordsPerPacket = (apv: number): number => Math.floor((BITMAP_PACKET_BYTES_MAX - headerBytes(apv)) / 8)

// ---- code words -----------------------------------------------------------------------------------------------------

/** Ordered by run length; `prefix` read as a number with its first bit as the lowest. */
const CODE_WORDS = [
  codeWord(1, 0b0, 1, 1),
  codeWord(2, 0b01, 1, 3),
  codeWord(3, 0b011, 2, 5),
  codeWord(4, 0b0111, 3, 9),
  codeWord(5, 0b01111, 5, 17),
  codeWord(6, 0b011111, 8, 49),
  codeWord(8, 0b00111111, 13, 305),
  codeWord(8, 0b01111111, 21, 8497),
  codeWord(8, 0b10111111, 34, 2105649),
  codeWord(8, 0b11111111, 56, 17181974833),
] as const

interface CodeWord {
  readonly prefixBits: number
  readonly prefix: number
  readonly dataBits: number
  readonly totalBits: number
  readonly runMin: number
  /** The largest run, or what a number holds exactly if that is less. */
  readonly runMax: number
}

function codeWord(prefixBits: number, prefix: number, dataBits: number, runMin: number): CodeWord {
  const runMax = Math.min(runMin + 2 ** dataBits - 1, Number.MAX_SAFE_INTEGER)
  return { prefixBits, prefix, dataBits, totalBits: prefixBits + dataBits, runMin, runMax }
}

/** The code word for each value of the next eight bits. */
const CODE_WORD_BY_BYTE: readonly CodeWord[] = Array.from({ length: 256 }, (_, byte) => {
  const found = CODE_WORDS.find((word) => (byte & ((1 << word.prefixBits) - 1)) === word.prefix)
  assert(found !== undefined, `no code word begins with ${byte}`)
  return found
})

class CodeWriter {
  readonly #bytes: Uint8Array
  #usedBits = 0

  constructor(bytesMax: number) {
    this.#bytes = new Uint8Array(bytesMax)
  }

  get padBits(): number {
    return -this.#usedBits & 7
  }

  /** False, and nothing written, if the code word does not fit. */
  writeRun(runBits: number): boolean {
    let index = 0
    while (runBits > (CODE_WORDS[index] as CodeWord).runMax) index++
    const word = CODE_WORDS[index] as CodeWord
    if (this.#usedBits + word.totalBits > 8 * this.#bytes.length) return false
    this.#write(word.prefix, word.prefixBits)
    this.#write(runBits - word.runMin, word.dataBits)
    return true
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, Math.ceil(this.#usedBits / 8))
  }

  #write(value: number, count: number): void {
    let left = count
    let rest = value
    while (left > 0) {
      const index = this.#usedBits >>> 3
      const shift = this.#usedBits & 7
      const taken = Math.min(8 - shift, left)
      const part = rest % (1 << taken) // not `&`: the value may have more than 32 bits
      this.#bytes[index] = (this.#bytes[index] as number) | (part << shift)
      rest = (rest - part) / (1 << taken)
      this.#usedBits += taken
      left -= taken
    }
  }
}

class CodeReader {
  readonly #bytes: Uint8Array
  readonly #codeBits: number
  #usedBits = 0

  constructor(bytes: Uint8Array, padBits: number) {
    this.#bytes = bytes
    this.#codeBits = 8 * bytes.length - padBits
  }

  get atEnd(): boolean {
    return this.#usedBits === this.#codeBits
  }

  /** A run of more than 2^53 bits comes out rounded: no bitmap is that large. */
  readRun(): number {
    const word = CODE_WORD_BY_BYTE[this.#peekByte()] as CodeWord
    if (this.#usedBits + word.totalBits > this.#codeBits) {
      throw new BitmapCodeError({ codeBits: this.#codeBits, atCodeBit: this.#usedBits })
    }
    this.#usedBits += word.prefixBits
    return word.runMin + this.#read(word.dataBits)
  }

  /** The next eight bits; zeroes beyond the end. */
  #peekByte(): number {
    const index = this.#usedBits >>> 3
    const low = this.#bytes[index] ?? 0
    const high = this.#bytes[index + 1] ?? 0
    return ((low | (high << 8)) >>> (this.#usedBits & 7)) & 0xff
  }

  #read(count: number): number {
    let value = 0
    let weight = 1
    let left = count
    while (left > 0) {
      const shift = this.#usedBits & 7
      const taken = Math.min(8 - shift, left)
      const byte = this.#bytes[this.#usedBits >>> 3] as number
      value += ((byte >>> shift) & ((1 << taken) - 1)) * weight
      weight *= 1 << taken
      this.#usedBits += taken
      left -= taken
    }
    return value
  }
}
