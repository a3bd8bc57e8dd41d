// Goal: the host that applied a write knows of it for as long as the writer may ask, and no longer.
// Method: writes and flushes in the order of a stream; round trip of the block ids.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { AppliedWrites, decodeCookies, encodeCookies } from './in-doubt.ts'

describe('AppliedWrites', () => {
  it('names the applied ones among those asked for', () => {
    const applied = new AppliedWrites()
    for (const id of [3, 1, 4]) applied.add(id)
    assert.deepEqual(applied.among([1, 2, 3]).sort(), [1, 3])
    assert.deepEqual(applied.among([]), [])
  })

  it('the acknowledgement of a flush may be lost: what came before it is remembered until the next flush comes', () => {
    const applied = new AppliedWrites()
    applied.add(1)
    applied.onFlushReceived()
    applied.onFlushAcknowledged()
    assert.deepEqual(applied.among([1]), [1])
    applied.add(2)
    applied.onFlushReceived()
    assert.deepEqual(applied.among([1, 2]), [2], 'the writer has seen the acknowledgement of the first flush')
    applied.onFlushAcknowledged()
    assert.deepEqual(applied.among([1, 2]), [2])
  })

  it('a write applied while a flush runs outlives this flush', () => {
    const applied = new AppliedWrites()
    applied.onFlushReceived()
    applied.add(1)
    applied.onFlushAcknowledged()
    assert.deepEqual(applied.among([1]), [1])
  })
})

describe('block ids on the wire', () => {
  it('big-endian, a u32 each', () => {
    assert.deepEqual(encodeCookies([1, 0xfffffffe]), new Uint8Array([0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfe]))
    assert.deepEqual(encodeCookies([]), new Uint8Array(0))
  })

  it('round trip, also from the middle of a buffer', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 0xffff_ffff })), fc.nat(7), (ids, shift) => {
        const buffer = new Uint8Array(ids.length * 4 + shift)
        buffer.set(encodeCookies(ids), shift)
        assert.deepEqual(decodeCookies(buffer.subarray(shift)), ids)
      }),
      { seed: 6, numRuns: 100 },
    )
  })
})
