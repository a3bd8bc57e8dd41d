// Goal: bytes come out as they came in, whatever the mixture of reads, pushes and uses; a read under way is never disturbed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Prng } from './prng.ts'
import { ReceiveBuffer } from './receive-buffer.ts'
import { KIB } from './units.ts'

test('bytes come out as they came in', () => {
  for (let seed = 1; seed <= 30; seed++) {
    const prng = new Prng(seed)
    const buffer = new ReceiveBuffer()
    let received = 0
    let used = 0
    const next = (length: number): Uint8Array => Uint8Array.from({ length }, () => (received++ * 31) % 251)
    const use = (length: number): void => {
      const taken = new Uint8Array(Math.min(length, buffer.lengthBytes))
      if (prng.chance(1, 2)) assert.equal(buffer.moveInto(taken, 0), taken.length)
      else {
        taken.set(buffer.bytes.subarray(buffer.at, buffer.at + taken.length))
        buffer.consume(taken.length)
      }
      for (const byte of taken) assert.equal(byte, (used++ * 31) % 251)
    }
    for (let i = 0; i < 200; i++) {
      const length = prng.pick([1, 100, 4 * KIB, 30 * KIB, 90 * KIB])
      if (prng.chance(1, 3)) buffer.push(next(length))
      else {
        const room = buffer.room()
        assert.ok(room.length >= 64 * KIB)
        if (prng.chance(1, 2)) use(length) // while the read is under way
        const bytes = next(Math.min(length, room.length))
        room.set(bytes)
        buffer.filled(bytes.length)
      }
      use(prng.pick([0, 1, 28, 5000, 100 * KIB]))
    }
    assert.equal(buffer.lengthBytes, received - used)
  }
})

test('memory does not grow while everything is used up in time', () => {
  const buffer = new ReceiveBuffer()
  for (let i = 0; i < 1000; i++) {
    const room = buffer.room()
    buffer.filled(Math.min(room.length, 70_001))
    buffer.consume(Math.max(0, buffer.lengthBytes - 4000))
    assert.equal(buffer.bytes.length, 256 * KIB)
  }
})

test('dropped bytes are received again', () => {
  const buffer = new ReceiveBuffer()
  buffer.push(Uint8Array.of(1, 2, 3, 4))
  buffer.dropLast(2)
  buffer.push(Uint8Array.of(5))
  const all = new Uint8Array(3)
  buffer.moveInto(all, 0)
  assert.deepEqual([...all], [1, 2, 5])
  assert.throws(() => buffer.consume(1), /not been received/)
  assert.throws(() => buffer.dropLast(1), /not been received/)
})
