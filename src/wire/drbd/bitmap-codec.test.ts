// Goal: bitmaps travel as wire-protocol.md 3.17 and 3.18 say, whatever is set in them.
// Method: the vectors of section 11; code words of each class at both ends; generated bitmaps sent and received, also between
// senders that change their mind from packet to packet; everything a peer can do wrong.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { ByteBitmap } from '../../../test/support/byte-bitmap.ts'
import { AppError } from '../../base/errors.ts'
import {
  BitmapCodeError,
  BitmapLengthError,
  BitmapOvershootError,
  type BitmapPacketFields,
  BitmapReceiver,
  BitmapSender,
  type BitSource,
  decodeRuns,
  encodeRuns,
  UnknownBitmapEncodingError,
} from './bitmap-codec.ts'
import { encodePacket } from './codec.ts'

/** Alternating runs; needs no memory, so that runs may be huge. */
class Runs implements BitSource {
  readonly bits: number
  readonly #ends: number[] = []
  readonly #firstSet: boolean

  constructor(runs: readonly number[], firstSet: boolean) {
    let end = 0
    for (const run of runs) {
      end += run
      this.#ends.push(end)
    }
    this.bits = end
    this.#firstSet = firstSet
  }

  nextSet(from: number): number {
    return this.#next(from, true)
  }

  nextClear(from: number): number {
    return this.#next(from, false)
  }

  #next(from: number, set: boolean): number {
    const index = this.#ends.findIndex((end) => end > from)
    if (index < 0) return this.bits
    return (index % 2 === 0) === (this.#firstSet === set) ? from : (this.#ends[index] as number)
  }
}

// ---- vectors --------------------------------------------------------------------------------------------------------

const VECTORS: readonly (readonly [readonly number[], boolean, string])[] = [
  [[10, 990], true, 'c2 97 9f 56 01'],
  [[2, 3, 5, 9, 17, 49, 305], true, 'a2 66 1c 1e f8 00 7e 00 00'],
  [[1000], true, 'b2 3f b7 02'],
  [[8388608], false, '62 bf cf de 5f 00 00'],
  [[1073741824], true, 'e2 bf cf de df 3f 00'],
  [[502], false, '32 3f c5 00'],
  [[502], true, 'b2 3f c5 00'],
  [[5, 1, 34, 3, 857, 16, 1122], false, '32 83 17 f3 83 22 ee 3f 31 03'],
  [[1, 1, 32998, 3, 31997, 1, 524], false, '02 f0 57 fb 05 f2 c7 bc 05 f8 d9 06'],
]

test('11: compressed bitmaps, both ways', () => {
  for (const [runs, firstSet, vector] of VECTORS) {
    const source = new Runs(runs, firstSet)
    const { encoding, payload, endBit } = encodeRuns(source, 0, 4079)
    const hex = vector.replaceAll(' ', '')
    assert.equal(Buffer.from([encoding, ...payload]).toString('hex'), hex)
    assert.equal(endBit, source.bits)
    assert.deepEqual(decodedRuns(hex, source.bits), { runs, firstSet })
  }
})

/** Runs in order, the clear ones filled in between the set ones. */
function decodedRuns(hex: string, bits: number): { runs: number[]; firstSet: boolean } {
  const [encoding = 0, ...payload] = Buffer.from(hex, 'hex')
  const runs: number[] = []
  let position = 0
  let firstSet = false
  const end = decodeRuns({ encoding, payload: Uint8Array.from(payload) }, 0, bits, (from, to) => {
    if (from === 0) firstSet = true
    if (from > position) runs.push(from - position)
    runs.push(to - from)
    position = to
  })
  assert.equal(end, bits)
  if (position < bits) runs.push(bits - position)
  return { runs, firstSet }
}

test('3.18: the shortest and the longest run of each code word', () => {
  const classes = [
    [1, 2, 2],
    [3, 4, 3],
    [5, 8, 5],
    [9, 16, 7],
    [17, 48, 10],
    [49, 304, 14],
    [305, 8496, 21],
    [8497, 2105648, 29],
    [2105649, 17181974832, 42],
    [17181974833, Number.MAX_SAFE_INTEGER, 64],
  ] as const
  for (const [shortest, longest, codeBits] of classes) {
    for (const run of [shortest, longest, Math.floor((shortest + longest) / 2)]) {
      const { encoding, payload } = encodeRuns(new Runs([run], true), 0, 4079)
      assert.equal(8 * payload.length - ((encoding >>> 4) & 7), codeBits, `${run}`)
      const ranges: number[][] = []
      assert.equal(
        decodeRuns({ encoding, payload }, 0, run, (from, to) => ranges.push([from, to])),
        run,
      )
      assert.deepEqual(ranges, [[0, run]])
    }
  }
})

test('runs of any lengths come back, from any bit on, and as many as fit go into the code', () => {
  const run = fc.oneof(
    fc.integer({ min: 1, max: 20 }),
    fc.integer({ min: 1, max: 10_000 }),
    fc.integer({ min: 1, max: 2 ** 40 }),
  )
  const cases = fc.record({
    runs: fc.array(run, { minLength: 1, maxLength: 40 }),
    firstSet: fc.boolean(),
    start: fc.integer({ min: 0, max: 1000 }),
    codeBytesMax: fc.integer({ min: 8, max: 100 }),
  })
  fc.assert(
    fc.property(cases, ({ runs, firstSet, start, codeBytesMax }) => {
      const source = new Runs(runs, firstSet)
      const fromBit = Math.min(start, source.bits - 1)
      const code = encodeRuns(source, fromBit, codeBytesMax)
      assert.ok(code.payload.length <= codeBytesMax)
      if (code.endBit < source.bits) assert.ok(8 * codeBytesMax - 8 * code.payload.length < 64, 'another run would fit')
      let position = fromBit
      const end = decodeRuns(code, fromBit, source.bits, (from, to) => {
        assert.equal(source.nextSet(position), from)
        assert.equal(source.nextClear(from), to)
        position = to
      })
      assert.equal(end, code.endBit)
      assert.ok(source.nextSet(position) >= end)
    }),
    { numRuns: 400 },
  )
})

// ---- transfers ------------------------------------------------------------------------------------------------------

function bitmapOf(bits: number, set: readonly (readonly [number, number])[]): ByteBitmap {
  const bitmap = new ByteBitmap(bits)
  for (const [from, to] of set) bitmap.set(from, to)
  return bitmap
}

function everySecond(bits: number): ByteBitmap {
  const bitmap = new ByteBitmap(bits)
  for (let bit = 0; bit < bits; bit += 2) bitmap.set(bit, bit + 1)
  return bitmap
}

function packetsOf(bitmap: ByteBitmap, useRle: boolean, apv = 101): BitmapPacketFields[] {
  const sender = new BitmapSender(bitmap, { apv, useRle })
  const packets: BitmapPacketFields[] = []
  for (let packet = sender.next(); packet !== undefined; packet = sender.next()) {
    encodePacket({ ...packet, volume: 0 }, { apv, features: 0, integrityBytes: 0 }, []) // asserts that it is not too long
    packets.push(packet)
  }
  assert.equal(sender.next(), undefined)
  return packets
}

function received(packets: readonly BitmapPacketFields[], bits: number, apv = 101): ByteBitmap {
  const bitmap = new ByteBitmap(bits)
  const receiver = new BitmapReceiver(bits, { apv }, (from, to) => bitmap.set(from, to))
  for (const [index, packet] of packets.entries()) {
    assert.equal(receiver.onPacket(packet), index === packets.length - 1, `complete after packet ${index}`)
  }
  return bitmap
}

const lengths = (packets: readonly BitmapPacketFields[]): number[] => packets.map(({ payload }) => payload.length)

test('3.17: plain packets of one page each, the rest, and an empty one', () => {
  const bitmap = bitmapOf(65525, [
    [1, 2],
    [33000, 33003],
    [65524, 65525],
  ])
  assert.deepEqual(lengths(packetsOf(bitmap, false)), [4080, 4080, 32, 0])
  assert.deepEqual(lengths(packetsOf(bitmap, false, 99)), [4088, 4088, 16, 0])
  assert.deepEqual(lengths(packetsOf(bitmapOf(502, []), false)), [64, 0])
  for (const apv of [99, 101]) assert.equal(received(packetsOf(bitmap, false, apv), 65525, apv).runs(), bitmap.runs())
})

test('3.17: bit k is in byte k / 8 at position k mod 8', () => {
  const [packet] = packetsOf(
    bitmapOf(70, [
      [1, 2],
      [15, 17],
      [69, 70],
    ]),
    false,
  )
  assert.equal(Buffer.from(packet?.payload ?? []).toString('hex'), '02800100000000002000000000000000')
})

test('3.17: bits beyond the last one are ignored', () => {
  const rangesOf = (hex: string): number[][] => {
    const ranges: number[][] = []
    const receiver = new BitmapReceiver(70, { apv: 101 }, (from, to) => ranges.push([from, to]))
    receiver.onPacket({ type: 'P_BITMAP', payload: new Uint8Array(Buffer.from(hex, 'hex')) })
    return ranges
  }
  assert.deepEqual(rangesOf('ff'.repeat(16)), [[0, 70]])
  assert.deepEqual(rangesOf('000000000000000060ff0f0000000080'), [[69, 70]])
  assert.deepEqual(rangesOf('0000000000000000c0ff0f0000000080'), [])
})

test('3.18: compressed packets that end at the last bit end the transfer', () => {
  const packets = packetsOf(bitmapOf(1_000_000, [[500, 900]]), true)
  assert.deepEqual(
    packets.map(({ type }) => type),
    ['P_COMPRESSED_BITMAP'],
  )
  assert.equal(received(packets, 1_000_000).runs(), '500-899')
})

test('3.18: what does not compress goes plain, and below version 90 everything does', () => {
  const plain = ['P_BITMAP', 'P_BITMAP']
  assert.deepEqual(
    packetsOf(everySecond(1000), true).map(({ type }) => type),
    plain,
  )
  assert.deepEqual(
    packetsOf(bitmapOf(1000, [[5, 6]]), true, 89).map(({ type }) => type),
    plain,
  )
  assert.deepEqual(
    packetsOf(bitmapOf(1000, [[5, 6]]), true, 90).map(({ type }) => type),
    ['P_COMPRESSED_BITMAP'],
  )
})

test('3.18: a bitmap in parts: compressed, then plain from the word of the bit, then compressed again', () => {
  // Long runs of about 100 bits fill the first code packet somewhere within a word, then comes what does not compress, then nothing.
  const bits = 1_000_000
  const bitmap = new ByteBitmap(bits)
  for (let bit = 0; bit < 250_003; bit += 201) bitmap.set(bit, bit + 101)
  for (let bit = 250_104; bit < 330_000; bit += 2) bitmap.set(bit, bit + 1)
  const packets = packetsOf(bitmap, true)
  const types = packets.map(({ type }) => (type === 'P_BITMAP' ? 'plain' : 'code'))
  assert.deepEqual([...new Set(types)], ['code', 'plain'])
  assert.equal(types.at(-1), 'code')
  assert.ok(types.lastIndexOf('plain') > types.indexOf('code'))
  assert.equal(received(packets, bits).runs(), bitmap.runs())
})

test('bitmaps of any size and content arrive, whoever decides when to compress', () => {
  const cases = fc.record({
    bits: fc.integer({ min: 0, max: 120_000 }),
    density: fc.constantFrom(2, 3, 9, 100, 5000),
    seed: fc.nat(),
    apv: fc.constantFrom(86, 90, 99, 100, 101),
    useRle: fc.boolean(),
  })
  fc.assert(
    fc.property(cases, ({ bits, density, seed, apv, useRle }) => {
      const bitmap = new ByteBitmap(bits)
      let state = (seed | 1) >>> 0
      for (let bit = 0; bit < bits; ) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0
        const run = 1 + ((state >>> 8) % density)
        if ((state & 0x80) !== 0) bitmap.set(bit, Math.min(bit + run, bits))
        bit += run
      }
      assert.equal(received(packetsOf(bitmap, useRle, apv), bits, apv).runs(), bitmap.runs())
    }),
    { numRuns: 120 },
  )
})

test('a device without blocks is an empty packet', () => {
  assert.deepEqual(lengths(packetsOf(new ByteBitmap(0), true)), [0])
  assert.equal(received(packetsOf(new ByteBitmap(0), false), 0).runs(), '')
})

// ---- what a peer can do wrong ---------------------------------------------------------------------------------------

const receiverOf = (bits: number, apv = 101): BitmapReceiver => new BitmapReceiver(bits, { apv }, () => {})
const plain = (lengthBytes: number): BitmapPacketFields => ({ type: 'P_BITMAP', payload: new Uint8Array(lengthBytes) })
const code = (hex: string): BitmapPacketFields => {
  const [encoding = 0, ...payload] = Buffer.from(hex.replaceAll(' ', ''), 'hex')
  return { type: 'P_COMPRESSED_BITMAP', encoding, payload: Uint8Array.from(payload) }
}

test('3.17: plain packets have one legal length', () => {
  for (const wrong of [0, 8, 4072, 4088]) {
    assert.throws(() => receiverOf(65525).onPacket(plain(wrong)), BitmapLengthError, `${wrong}`)
  }
  assert.throws(() => receiverOf(65525, 99).onPacket(plain(4080)), BitmapLengthError)
  const receiver = receiverOf(502)
  assert.equal(receiver.onPacket(plain(64)), false)
  assert.throws(() => receiver.onPacket(plain(64)), {
    code: 'E_BITMAP_LENGTH',
    details: { lengthBytes: 64, lengthBytesExpected: 0, bits: 502 },
  })
  assert.equal(receiver.onPacket(plain(0)), true)
})

test('3.18: a run beyond the last bit is refused, set or clear', () => {
  for (const vector of ['b2 3f c5 00', '32 3f c5 00']) {
    assert.equal(receiverOf(502).onPacket(code(vector)), true)
    assert.equal(receiverOf(503).onPacket(code(vector)), false)
    assert.throws(() => receiverOf(501).onPacket(code(vector)), {
      code: 'E_BITMAP_OVERSHOOT',
      details: { fromBit: 0, runBits: 502, bits: 501 },
    })
  }
  const afterPlain = receiverOf(502)
  afterPlain.onPacket(plain(64))
  assert.throws(() => afterPlain.onPacket(code('62 00')), BitmapOvershootError)
  assert.throws(() => receiverOf(502).onPacket(code('02 ff ff ff ff ff ff ff ff')), BitmapOvershootError)
})

test('3.18: a code that ends within a word, and one that holds nothing, are refused', () => {
  for (const vector of ['02 ff', '02 3f c5', '72 01', '42 3f c5 00', '02 00 ff', '02']) {
    assert.throws(() => receiverOf(100_000).onPacket(code(vector)), BitmapCodeError, vector)
  }
  assert.throws(() => receiverOf(100_000).onPacket(code('72 01')), {
    code: 'E_BITMAP_CODE',
    details: { codeBits: 1, atCodeBit: 0 },
  })
})

test('3.18: there is only one encoding', () => {
  for (const encoding of ['00', '01', '03', '8f']) {
    assert.throws(() => receiverOf(502).onPacket(code(`${encoding} 3f c5 00`)), UnknownBitmapEncodingError, encoding)
  }
})

test('any packets at all set bits of the bitmap or give typed errors', () => {
  const packet = fc.oneof(
    fc.record({ encoding: fc.integer({ min: 0, max: 255 }), payload: fc.uint8Array({ maxLength: 40 }) }).map(
      ({ encoding, payload }): BitmapPacketFields => ({
        type: 'P_COMPRESSED_BITMAP',
        encoding: (encoding & 0xf0) | 2,
        payload: new Uint8Array(payload),
      }),
    ),
    fc.constantFrom(0, 8, 64, 4080).map(plain),
  )
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 40_000 }), fc.array(packet, { maxLength: 5 }), (bits, packets) => {
      const receiver = new BitmapReceiver(bits, { apv: 101 }, (from, to) => {
        assert.ok(from >= 0 && from < to && to <= bits, `${from} to ${to} of ${bits}`)
      })
      try {
        for (const one of packets) receiver.onPacket(one)
      } catch (error) {
        if (!(error instanceof AppError)) throw error
      }
    }),
    { numRuns: 500 },
  )
})
