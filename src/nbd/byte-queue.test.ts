// Goal: the queue gives out exactly the bytes that went in, without a copy where they lie in one chunk.
// Method: the same bytes cut at random places, taken in random ways; identity of memory.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from '../base/prng.ts'
import { ByteQueue } from './byte-queue.ts'

test('bytes come out as they went in, however they were cut', () => {
  for (let seed = 1; seed <= 50; seed++) {
    const prng = new Prng(seed)
    const all = new Uint8Array(600)
    prng.fill(all)
    const queue = new ByteQueue()
    let pushed = 0
    let taken = 0
    while (taken < all.length) {
      if (pushed < all.length && prng.chance(1, 2)) {
        const length = Math.min(prng.intInclusive(0, 40), all.length - pushed)
        queue.push(all.slice(pushed, pushed + length))
        pushed += length
      }
      const length = prng.intInclusive(0, Math.min(50, queue.lengthBytes))
      const wanted = all.subarray(taken, taken + length)
      if (queue.lengthBytes >= 4) assert.equal(queue.peekU32(), Buffer.from(all).readUInt32BE(taken))
      switch (prng.intInclusive(0, 3)) {
        case 0:
          assert.deepEqual(queue.take(length), wanted)
          break
        case 1: {
          const at = queue.takeHeader(length)
          assert.deepEqual(queue.header.slice(at, at + length), wanted)
          break
        }
        case 2: {
          const target = new Uint8Array(length + 3)
          assert.equal(queue.copyInto(target.subarray(0, length + 3), 3), length)
          assert.deepEqual(target.subarray(3), wanted)
          break
        }
        default:
          assert.equal(queue.skip(length), length)
      }
      taken += length
      assert.equal(queue.lengthBytes, pushed - taken, `seed ${seed}`)
    }
  }
})

test('one chunk: a view, not a copy', () => {
  const queue = new ByteQueue()
  const chunk = new Uint8Array(100)
  queue.push(chunk)
  queue.skip(10)
  assert.equal(queue.isContiguous(90), true)
  const view = queue.take(90)
  assert.equal(view.buffer, chunk.buffer)
  assert.equal(view.byteOffset, 10)
})

test('two chunks: one copy; asking for more than there is copies or skips what there is', () => {
  const queue = new ByteQueue()
  queue.push(new Uint8Array([1, 2]))
  queue.push(new Uint8Array([3, 4]))
  assert.equal(queue.isContiguous(3), false)
  assert.deepEqual(queue.take(3), new Uint8Array([1, 2, 3]))
  const target = new Uint8Array(4)
  assert.equal(queue.copyInto(target, 1), 1)
  assert.deepEqual(target, new Uint8Array([0, 4, 0, 0]))
  assert.equal(queue.skip(5), 0)
  queue.push(new Uint8Array([5]))
  queue.clear()
  assert.equal(queue.lengthBytes, 0)
})
