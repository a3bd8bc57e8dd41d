// Goal: the set of ranges in progress finds every overlap, in the order of insertion, and nothing else.
// Method: random histories against a plain array; the edges of windows, of long ranges and of the hash by name; what a
// visit may do to the set.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { AssertionFailure } from '../base/assert.ts'
import { Prng } from '../base/prng.ts'
import { IntervalSet, type SectorRange } from './intervals.ts'

const WINDOW = 2048
const GIB_SECTORS = 2 * 1024 * 1024

const range = (sector: number, sectors: number): SectorRange => ({ sector, sectors })

/** The model: an array in the order of insertion. */
class PlainSet {
  readonly items: SectorRange[] = []

  remove(item: SectorRange): boolean {
    const index = this.items.indexOf(item)
    if (index !== -1) this.items.splice(index, 1)
    return index !== -1
  }

  overlaps(sector: number, sectors: number): SectorRange[] {
    return this.items.filter((item) => {
      const from = Math.max(sector, item.sector)
      return from < Math.min(sector + sectors, item.sector + item.sectors)
    })
  }
}

function overlapsOf(set: IntervalSet<SectorRange>, sector: number, sectors: number): SectorRange[] {
  const found: SectorRange[] = []
  set.forEachOverlap(sector, sectors, (item) => found.push(item))
  return found
}

/** Equal length and the very same objects at each place. */
function assertSame(actual: readonly SectorRange[], expected: readonly SectorRange[]): void {
  assert.deepEqual(actual, expected)
  for (let i = 0; i < expected.length; i++) assert.equal(actual[i], expected[i])
}

function compareLookup(set: IntervalSet<SectorRange>, model: PlainSet, at: SectorRange, except?: SectorRange): void {
  const expected = model.overlaps(at.sector, at.sectors)
  assertSame(overlapsOf(set, at.sector, at.sectors), expected)
  assert.equal(
    set.firstOverlap(at.sector, at.sectors, except),
    expected.find((item) => item !== except),
  )
}

const fillers = (set: IntervalSet<SectorRange>, count: number): void => {
  for (let i = 0; i < count; i++) set.insert(range(900 * GIB_SECTORS + i * WINDOW, 8))
}

const anyRange = fc
  .tuple(
    fc.oneof(fc.integer({ min: 0, max: 6 * WINDOW }), fc.constantFrom(GIB_SECTORS - 8, GIB_SECTORS, 2 ** 52)),
    fc.constantFrom(0, 1, 8, 8, 8, 256, WINDOW - 1, WINDOW, WINDOW + 1, 262144),
  )
  .map(([sector, sectors]) => range(sector, sectors))

describe('IntervalSet', () => {
  it('agrees with a plain array over random histories', () => {
    const step = fc.record({ add: fc.integer({ min: 0, max: 9 }), at: anyRange, pick: fc.nat() })
    const property = fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const set = new IntervalSet<SectorRange>()
      const model = new PlainSet()
      for (const { add, at, pick } of steps) {
        const present = model.items[pick % Math.max(1, model.items.length)]
        if (add < 7 || present === undefined) {
          set.insert(at)
          model.items.push(at)
        } else {
          assert.equal(set.remove(present), true)
          assert.equal(set.remove(present), false)
          model.remove(present)
        }
        compareLookup(set, model, at, present)
        assert.equal(set.size, model.items.length)
        assertSame([...set], model.items)
      }
    })
    fc.assert(property, { numRuns: 300, seed: 5 })
  })

  it('agrees with a plain array at thousands of entries, with nodes reused', () => {
    const prng = new Prng(11)
    const set = new IntervalSet<SectorRange>()
    const model = new PlainSet()
    const draw = (): SectorRange =>
      range(prng.intInclusive(0, 8 * GIB_SECTORS), prng.chance(1, 50) ? 262144 : prng.intInclusive(1, WINDOW))
    for (let i = 0; i < 6000; i++) {
      const item = draw()
      set.insert(item)
      model.items.push(item)
      if (i >= 2000) {
        const gone = model.items[prng.intInclusive(0, model.items.length - 1)] as SectorRange
        assert.equal(set.remove(gone), model.remove(gone))
      }
      if (i % 4 === 0) compareLookup(set, model, draw(), item)
    }
    assert.equal(set.size, model.items.length)
    compareLookup(set, model, range(0, 8 * GIB_SECTORS + WINDOW))
  })

  for (const others of [0, 100]) {
    describe(`with ${others} other entries`, () => {
      it('ranges that touch do not overlap', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const item = range(100, 8)
        set.insert(item)
        assert.equal(set.firstOverlap(92, 8), undefined)
        assert.equal(set.firstOverlap(108, 8), undefined)
        assert.equal(set.firstOverlap(93, 8), item)
        assert.equal(set.firstOverlap(107, 8), item)
        assert.equal(set.firstOverlap(103, 1), item)
        assert.equal(set.firstOverlap(0, 4096), item)
      })

      it('finds a range that begins in the window before', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const item = range(3 * WINDOW - 1, WINDOW)
        set.insert(item)
        assert.equal(set.firstOverlap(4 * WINDOW - 2, 1), item)
        assert.equal(set.firstOverlap(4 * WINDOW - 1, 1), undefined)
        assert.deepEqual(overlapsOf(set, 3 * WINDOW, 1), [item])
      })

      it('finds a long range from its last sector', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const item = range(5, 262144)
        set.insert(item)
        assert.equal(set.firstOverlap(5 + 262144 - 1, 8), item)
        assert.equal(set.firstOverlap(5 + 262144, 8), undefined)
        assert.equal(set.remove(item), true)
        assert.equal(set.firstOverlap(6, 8), undefined)
      })

      it('the first overlap is the one inserted first, whatever its place', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const late = range(3 * WINDOW, 8)
        const early = range(2 * WINDOW, 8)
        const long = range(0, 4 * WINDOW)
        for (const item of [late, long, early]) set.insert(item)
        const all = [2 * WINDOW, 2 * WINDOW] as const
        assert.equal(set.firstOverlap(...all), late)
        assert.equal(set.firstOverlap(...all, late), long)
        assertSame(overlapsOf(set, ...all), [late, long, early])
        set.remove(late)
        assert.equal(set.firstOverlap(...all), long)
        set.insert(late)
        assertSame(overlapsOf(set, ...all), [long, early, late])
      })

      it('a wide lookup finds each range once, in order', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const items = [range(90 * WINDOW, 8), range(0, 262144), range(40 * WINDOW, 8), range(0, 8)]
        for (const item of items) set.insert(item)
        for (const windows of [29, 31, 32, 33, 100, 2000]) {
          const expected = items.filter((item) => item.sector < windows * WINDOW)
          assertSame(overlapsOf(set, 0, windows * WINDOW), expected)
          assert.equal(set.firstOverlap(0, windows * WINDOW), expected[0])
        }
      })

      it('windows that share a slot do not mix, and windows across a GiB are found once', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const near = range(GIB_SECTORS - 8, 8)
        const far = range(987 * WINDOW, 8) // the slot of the first window after 1 GiB is 37, that of window 37
        const after = range(GIB_SECTORS + WINDOW, 8)
        const same = range(38 * WINDOW, 8)
        for (const item of [near, far, after, same]) set.insert(item)
        assertSame(overlapsOf(set, GIB_SECTORS - WINDOW, 3 * WINDOW), [near, after])
        assertSame(overlapsOf(set, 38 * WINDOW, 8), [same])
        assert.equal(set.remove(range(38 * WINDOW, 8)), false)
        assert.equal(set.remove(same), true)
        assert.equal(set.firstOverlap(GIB_SECTORS + WINDOW, 1), after)
      })

      it('a range without sectors overlaps nothing and can be removed', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const empty = range(100, 0)
        const around = range(96, 8)
        set.insert(empty)
        set.insert(around)
        assert.deepEqual(overlapsOf(set, 96, 8), [around])
        assert.equal(set.firstOverlap(96, 8, around), undefined)
        assert.equal(set.firstOverlap(100, 0), undefined)
        assert.deepEqual(overlapsOf(set, 100, 0), [])
        assert.equal(set.remove(empty), true)
        assert.equal(set.size, others + 1)
      })

      it('removes the very object, not an equal one', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const one = range(8, 8)
        const other = range(8, 8)
        set.insert(one)
        assert.equal(set.remove(other), false)
        set.insert(other)
        assert.equal(set.remove(one), true)
        assert.equal(set.remove(one), false)
        assert.equal(set.firstOverlap(8, 8), other)
      })

      it('a visit may remove and insert, and look for overlaps itself', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const items = [range(0, 8), range(4, 8), range(6, 8), range(7, 8)]
        for (const item of items) set.insert(item)
        const visited: SectorRange[] = []
        set.forEachOverlap(0, 16, (item) => {
          visited.push(item)
          if (item !== items[0]) return
          assertSame(overlapsOf(set, 13, 1), [items[2], items[3]] as SectorRange[])
          set.remove(items[1] as SectorRange)
          set.insert(range(7, 1)) // takes the node that has just become free
        })
        assertSame(visited, [items[0], items[2], items[3]] as SectorRange[])
        assert.equal(overlapsOf(set, 7, 1).length, 4)
      })

      it('a visit that throws leaves the set usable', () => {
        const set = new IntervalSet<SectorRange>()
        fillers(set, others)
        const item = range(0, 8)
        set.insert(item)
        const fail = (): void => {
          throw new RangeError('visit')
        }
        assert.throws(() => set.forEachOverlap(0, 8, fail), RangeError)
        assertSame(overlapsOf(set, 0, 8), [item])
      })
    })
  }

  it('refuses negative ranges', () => {
    const set = new IntervalSet<SectorRange>()
    assert.throws(() => set.insert(range(-8, 8)), AssertionFailure)
    assert.throws(() => set.insert(range(8, -8)), AssertionFailure)
    assert.equal(set.size, 0)
  })
})
