// Goal: what the peer may still lose is never forgotten, and is forgotten as soon as a flush covers it.
// Method: marks and flushes in every order; the loss of the peer in between; a model of two sets under random steps.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { Bitmap } from '../meta/bitmap.ts'
import { Stability } from './stability.ts'

const marked = (stability: Stability, bits = 64): number[] =>
  Array.from({ length: bits }, (_, bit) => bit).filter((bit) => stability.isMarked(bit))

const setBits = (bitmap: Bitmap): number[] =>
  Array.from({ length: bitmap.bits }, (_, bit) => bit).filter((bit) => bitmap.isSet(bit))

describe('Stability', () => {
  it('a flush covers what was marked before it was sent, not what came after', () => {
    const stability = new Stability(64)
    stability.mark(1, 3)
    stability.flushSent()
    stability.mark(5, 6)
    assert.deepEqual(marked(stability), [1, 2, 5])
    stability.flushDone()
    assert.deepEqual(marked(stability), [5])
    stability.flushSent()
    assert.deepEqual(marked(stability), [5])
    stability.flushDone()
    assert.deepEqual(marked(stability), [])
  })

  it('a block written again while the flush runs stays marked', () => {
    const stability = new Stability(64)
    stability.mark(7, 8)
    stability.flushSent()
    stability.mark(7, 8)
    stability.flushDone()
    assert.deepEqual(marked(stability), [7])
  })

  it('a generation is stable when a flush sent after it is done', () => {
    const stability = new Stability(64)
    assert.equal(stability.stableGeneration, Number.POSITIVE_INFINITY, 'nothing is in doubt')
    stability.mark(1, 2)
    const first = stability.writeGeneration
    assert.ok(stability.stableGeneration < first)
    stability.flushSent()
    stability.mark(2, 3)
    const second = stability.writeGeneration
    assert.ok(second > first && stability.stableGeneration < first)
    stability.flushDone()
    assert.ok(stability.stableGeneration >= first && stability.stableGeneration < second)
    stability.flushSent()
    stability.flushDone()
    assert.equal(stability.stableGeneration, Number.POSITIVE_INFINITY)
  })

  it('the peer is lost: all that is marked, also under a running flush, becomes out of sync', () => {
    const stability = new Stability(64)
    stability.mark(1, 3)
    stability.flushSent()
    stability.mark(8, 9)
    const outOfSync = new Bitmap(64)
    outOfSync.set(2, 3)
    assert.equal(stability.peerLost(outOfSync), 2, 'bit 2 was set before')
    assert.deepEqual(setBits(outOfSync), [1, 2, 8])
    assert.deepEqual(marked(stability), [])
    stability.mark(3, 4)
    stability.flushSent()
    stability.flushDone()
    assert.deepEqual(marked(stability), [], 'a new flush runs as if nothing had been')
  })

  it('one flush at a time', () => {
    const stability = new Stability(64)
    stability.flushSent()
    assert.throws(() => stability.flushSent(), /one flush at a time/)
  })

  it('agrees with two sets under random steps', () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('mark' as const), from: fc.nat(63), length: fc.integer({ min: 1, max: 8 }) }),
      fc.constantFrom({ kind: 'flush' as const }, { kind: 'lost' as const }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const stability = new Stability(64)
        let after = new Set<number>()
        let before = new Set<number>()
        let running = false
        const outOfSync = new Bitmap(64)
        const lost = new Set<number>()
        for (const one of steps) {
          if (one.kind === 'mark') {
            const to = Math.min(64, one.from + one.length)
            stability.mark(one.from, to)
            for (let bit = one.from; bit < to; bit++) after.add(bit)
          } else if (one.kind === 'lost') {
            for (const bit of [...before, ...after]) lost.add(bit)
            stability.peerLost(outOfSync)
            before = new Set()
            after = new Set()
            running = false
          } else if (running) {
            stability.flushDone()
            before = new Set()
            running = false
          } else {
            stability.flushSent()
            before = after
            after = new Set()
            running = true
          }
          const expected = [...new Set([...before, ...after])].sort((a, b) => a - b)
          assert.deepEqual(marked(stability), expected)
          assert.deepEqual(
            setBits(outOfSync),
            [...lost].sort((a, b) => a - b),
          )
          assert.equal(stability.stableGeneration === Number.POSITIVE_INFINITY, expected.length === 0)
        }
      }),
      { seed: 5, numRuns: 200 },
    )
  })
})
