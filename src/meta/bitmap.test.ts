// Goal: the bitmap does what an array of booleans would, fast, and knows which blocks of the disk changed.
// Method: random operations against such an array (fast-check shrinks what differs); sizes around word and block borders;
// a bitmap of 1 TiB with a bound on the number of operations it can take.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Prng } from '../base/prng.ts'
import { Bitmap, blocksCovered, blocksTouched } from './bitmap.ts'

const BLOCK_BITS = 32768

/** The same, one boolean at a time. */
class Model {
  readonly bits: boolean[]
  readonly dirty = new Set<number>()

  constructor(bits: number) {
    this.bits = new Array<boolean>(bits).fill(false)
  }

  put(from: number, to: number, value: boolean): number {
    let changed = 0
    for (let bit = from; bit < to; bit++) {
      if (this.bits[bit] === value) continue
      this.bits[bit] = value
      this.dirty.add(Math.floor(bit / BLOCK_BITS))
      changed++
    }
    return changed
  }

  count(from: number, to: number): number {
    return this.bits.slice(from, to).filter((bit) => bit).length
  }

  next(from: number, value: boolean): number {
    const at = this.bits.indexOf(value, from)
    return at === -1 ? this.bits.length : at
  }
}

type Step = { readonly kind: 'set' | 'clear' | 'look' | 'take'; readonly a: number; readonly b: number }

function runStep(bitmap: Bitmap, model: Model, step: Step): void {
  const { bits } = bitmap
  const from = Math.min(step.a, step.b) % (bits + 1)
  const to = Math.max(from, Math.max(step.a, step.b) % (bits + 1))
  if (step.kind === 'set') assert.equal(bitmap.set(from, to), model.put(from, to, true))
  if (step.kind === 'clear') assert.equal(bitmap.clear(from, to), model.put(from, to, false))
  if (step.kind === 'take') {
    assert.deepEqual(
      bitmap.takeDirtyBlocks(),
      [...model.dirty].sort((a, b) => a - b),
    )
    model.dirty.clear()
  }
  assert.equal(bitmap.countRange(from, to), model.count(from, to))
  assert.equal(bitmap.anySet(from, to), model.count(from, to) > 0)
  assert.equal(bitmap.nextSet(from), model.next(from, true))
  assert.equal(bitmap.nextClear(from), model.next(from, false))
  if (from < bits) assert.equal(bitmap.isSet(from), model.bits[from])
  assert.equal(bitmap.count, model.count(0, bits))
  assert.equal(bitmap.dirtyBlocks, model.dirty.size)
}

test('random operations: the same as an array of booleans', () => {
  const sizes = fc.oneof(
    fc.integer({ min: 0, max: 200 }),
    fc.constantFrom(BLOCK_BITS - 1, BLOCK_BITS, BLOCK_BITS + 1, 2 * BLOCK_BITS, 2 * BLOCK_BITS + 33),
  )
  const position = fc.oneof(
    fc.integer({ min: 0, max: 3 * BLOCK_BITS }),
    fc.constantFrom(0, 31, 32, 33, 63, 64, BLOCK_BITS - 1, BLOCK_BITS, BLOCK_BITS + 1, 2 * BLOCK_BITS),
  )
  const steps = fc.array(
    fc.record({ kind: fc.constantFrom('set', 'clear', 'look', 'take'), a: position, b: position }),
    { maxLength: 12 },
  )
  fc.assert(
    fc.property(sizes, steps, (bits, program) => {
      const bitmap = new Bitmap(bits)
      const model = new Model(bits)
      for (const step of program) runStep(bitmap, model, step)
      for (let index = 0; index * 4096 < bitmap.diskBytes; index++) {
        assert.equal(bitmap.blockIsDirty(index), model.dirty.has(index))
        const block = bitmap.block(index)
        for (let i = 0; i < 4096; i += 37) {
          for (let bit = 0; bit < 8; bit++) {
            const value = model.bits[index * BLOCK_BITS + i * 8 + bit] ?? false // padding is 0
            assert.equal(((block[i] as number) >> bit) & 1, value ? 1 : 0)
          }
        }
      }
    }),
    { numRuns: 60 },
  )
})

test('bytes on disk: bit b is bit b mod 8 of byte b / 8', () => {
  const bitmap = new Bitmap(70000)
  bitmap.set(0, 1)
  bitmap.set(12, 13)
  bitmap.set(32768 + 20, 32768 + 28)
  assert.equal(bitmap.diskBytes, 3 * 4096)
  const first = bitmap.block(0)
  assert.deepEqual([first[0], first[1], first.length], [0x01, 0x10, 4096])
  assert.deepEqual([...bitmap.block(1).subarray(2, 4)], [0xf0, 0x0f])
  first.fill(0xff) // a copy
  assert.equal(bitmap.count, 10)
  assert.throws(() => bitmap.block(3))
})

test('from disk: padding is left out, wherever the last bit is', () => {
  for (const bits of [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 4086, 32767, 32768, 32769, 65536]) {
    const bitmap = Bitmap.fromDisk(bits, new Uint8Array(3 * 4096).fill(0xff))
    assert.equal(bitmap.count, bits)
    assert.equal(bitmap.nextClear(0), bits)
    assert.deepEqual(bitmap.takeDirtyBlocks(), [])
    const last = bitmap.diskBytes / 4096 - 1
    if (bits % 8 !== 0) assert.equal(bitmap.block(last)[Math.floor((bits % 32768) / 8)], (1 << (bits % 8)) - 1)
    bitmap.clearAll()
    assert.equal(bitmap.nextSet(0), bits)
  }
})

test('from disk: a copy, and the same bytes again', () => {
  const bytes = new Uint8Array(2 * 4096)
  new Prng(3).fill(bytes)
  const bitmap = Bitmap.fromDisk(2 * 32768, bytes)
  assert.deepEqual(bitmap.block(0), bytes.slice(0, 4096))
  assert.deepEqual(bitmap.block(1), bytes.slice(4096))
  const before = bitmap.count
  bytes.fill(0)
  assert.equal(bitmap.count, before)
  assert.notEqual(bitmap.block(0)[0], undefined)
  assert.ok(bitmap.block(0).some((byte) => byte !== 0))
})

test('from disk: bits without bytes count as out of sync, and are to be written', () => {
  const bitmap = Bitmap.fromDisk(40000, new Uint8Array(4096 + 512))
  assert.equal(bitmap.nextSet(0), 32768 + 4096)
  assert.equal(bitmap.count, 40000 - 32768 - 4096)
  assert.deepEqual(bitmap.takeDirtyBlocks(), [1])
  assert.equal(Bitmap.fromDisk(100, new Uint8Array(0)).count, 100)
})

test('dirty blocks: only real changes count; each block once; marked again after a failed write', () => {
  const bitmap = new Bitmap(4 * 32768)
  bitmap.set(32768, 32769)
  bitmap.set(32768, 32769)
  bitmap.clear(0, 1000)
  assert.equal(bitmap.dirtyBlocks, 1)
  bitmap.set(3 * 32768 - 1, 3 * 32768 + 1)
  assert.deepEqual(
    [0, 1, 2, 3].map((index) => bitmap.blockIsDirty(index)),
    [false, true, true, true],
  )
  bitmap.markClean(2)
  bitmap.markClean(2)
  assert.equal(bitmap.dirtyBlocks, 2)
  assert.deepEqual(bitmap.takeDirtyBlocks(), [1, 3])
  assert.deepEqual(bitmap.takeDirtyBlocks(), [])
  bitmap.markDirty(1)
  bitmap.markDirty(1)
  assert.equal(bitmap.dirtyBlocks, 1)
  bitmap.setAll()
  assert.deepEqual(bitmap.takeDirtyBlocks(), [0, 1, 2, 3])
  bitmap.setAll()
  assert.deepEqual(bitmap.takeDirtyBlocks(), [])
  bitmap.clearAll()
  assert.equal(bitmap.count, 0)
  assert.deepEqual(bitmap.takeDirtyBlocks(), [0, 1, 2, 3])
})

test('words for the wire: little-endian 64-bit words; or-ing them in sets the same bits', () => {
  const prng = new Prng(4)
  for (const bits of [1, 63, 64, 65, 502, 32768, 65525]) {
    const words = Math.ceil(bits / 64)
    const from = new Bitmap(bits)
    for (let i = 0; i < bits / 3; i++) from.set(...blocksTouched(prng.intInclusive(0, bits - 1) * 8, 8))
    const to = new Bitmap(bits)
    to.set(0, 1)
    const expected = from.count + (from.isSet(0) ? 0 : 1)
    let newly = 0
    for (let word = 0; word < words; word += 510) {
      const bytes = from.readWords(word, Math.min(510, words - word))
      assert.equal(bytes.length, Math.min(510, words - word) * 8)
      newly += to.orWords(word, bytes)
    }
    assert.equal(to.count, expected)
    assert.equal(newly, expected - 1)
    for (let bit = from.nextSet(0); bit < bits; bit = from.nextSet(bit + 1)) assert.ok(to.isSet(bit))
  }
})

test('words from the wire: bits beyond the end are ignored, odd lengths are taken as far as they go', () => {
  const bitmap = new Bitmap(70)
  assert.equal(bitmap.orWords(0, new Uint8Array(64).fill(0xff)), 70)
  assert.equal(bitmap.count, 70)
  bitmap.clearAll()
  assert.equal(bitmap.orWords(1, new Uint8Array(100).fill(0xff)), 6)
  assert.equal(bitmap.orWords(0, Uint8Array.of(0x81, 0, 0, 0, 0x02)), 3)
  assert.deepEqual([bitmap.nextSet(0), bitmap.nextSet(1), bitmap.nextSet(8)], [0, 7, 33])
  assert.equal(bitmap.orWords(2, new Uint8Array(8).fill(0xff)), 0)
})

test('blocks of a request: touched rounds outwards, covered inwards', () => {
  assert.deepEqual(blocksTouched(0, 8), [0, 1])
  assert.deepEqual(blocksTouched(7, 2), [0, 2])
  assert.deepEqual(blocksTouched(8, 1), [1, 2])
  assert.deepEqual(blocksTouched(5, 0), [0, 0])
  assert.deepEqual(blocksCovered(0, 8, 1000), [0, 1])
  assert.deepEqual(blocksCovered(1, 15, 1000), [1, 2])
  assert.deepEqual(blocksCovered(0, 15, 1000), [0, 1])
  const inner = blocksCovered(1, 14, 1000)
  assert.ok(inner[0] >= inner[1], 'sectors 1 to 14 cover no block')
  // A device of 1003 sectors: its last block has 3.
  assert.deepEqual(blocksCovered(992, 11, 1003), [124, 126])
  assert.deepEqual(blocksCovered(1000, 3, 1003), [125, 126])
  const short = blocksCovered(1000, 2, 1003)
  assert.ok(short[0] >= short[1])
  const none = blocksCovered(1003, 0, 1003)
  assert.ok(none[0] >= none[1])
})

test('blocks of a request: a covered block is one whose every sector is written', () => {
  fc.assert(
    fc.property(fc.nat(60), fc.nat(60), fc.nat(20), (sector, sectors, more) => {
      const deviceSectors = sector + sectors + more
      const [touchedFrom, touchedTo] = blocksTouched(sector, sectors)
      const [coveredFrom, coveredTo] = blocksCovered(sector, sectors, deviceSectors)
      for (let block = 0; block * 8 < deviceSectors; block++) {
        const all = Array.from({ length: Math.min(8, deviceSectors - block * 8) }, (_, i) => block * 8 + i)
        const written = all.filter((at) => at >= sector && at < sector + sectors).length
        assert.equal(block >= touchedFrom && block < touchedTo, written > 0, `touched ${block}`)
        assert.equal(block >= coveredFrom && block < coveredTo, written === all.length, `covered ${block}`)
      }
    }),
  )
})

test('1 TiB: range operations and searches do not go bit by bit', () => {
  const bits = 2 ** 28
  const bitmap = new Bitmap(bits)
  const start = performance.now()
  for (let i = 0; i < 500; i++) {
    const at = (i * 536_867) % bits
    bitmap.set(at, at + 1)
    assert.equal(bitmap.nextSet(at + 1) > at, true)
    assert.equal(bitmap.nextClear(at), at + 1)
    assert.equal(bitmap.countRange(0, bits), bitmap.count)
  }
  bitmap.setAll()
  assert.equal(bitmap.count, bits)
  assert.equal(bitmap.nextClear(0), bits)
  assert.equal(bitmap.takeDirtyBlocks().length, 8192)
  bitmap.clear(1, bits)
  assert.equal(bitmap.nextSet(1), bits)
  bitmap.clearAll()
  // Bit by bit the two whole-range calls alone would take many seconds, and so would 500 scans of the words.
  assert.ok(performance.now() - start < 4000, `${performance.now() - start} ms`)
})
