import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BufferPool } from './buffer-pool.ts'
import { KIB, MIB } from './units.ts'

test('gives buffers of exactly the length that was asked for, each with memory of its own', () => {
  const pool = new BufferPool(8 * MIB)
  const lengths = [0, 1, 512, 4096, 4097, 8192, 65_536, 65_537, MIB - 1, MIB, MIB + 1, 5 * MIB, 512, 4096]
  const buffers = lengths.map((length) => pool.take(length))
  assert.deepEqual(
    buffers.map((bytes) => bytes.length),
    lengths,
  )
  for (const [i, bytes] of buffers.entries()) bytes.fill(i + 1)
  for (const [i, bytes] of buffers.entries()) assert.ok(bytes.every((byte) => byte === i + 1))
})

test('uses memory again, also for another length of the same class', () => {
  let allocations = 0
  const pool = new BufferPool(8 * MIB, (lengthBytes) => {
    allocations++
    return new Uint8Array(lengthBytes)
  })
  for (let i = 0; i < 1000; i++) for (const length of [4096, 512, 100 * KIB, MIB]) pool.give(pool.take(length))
  assert.equal(allocations, 3)
})

test('keeps no more than it may', () => {
  const pool = new BufferPool(2 * MIB)
  const taken = Array.from({ length: 5 }, () => pool.take(MIB))
  for (const bytes of taken) pool.give(bytes)
  assert.equal(pool.freeBytes, 2 * MIB)
})

test('a buffer that is given twice is a bug; foreign ones and views are left alone', () => {
  const pool = new BufferPool(8 * MIB)
  const bytes = pool.take(4096)
  const before = pool.freeBytes
  pool.give(new Uint8Array(4096))
  pool.give(bytes.subarray(0, 4096))
  assert.equal(pool.freeBytes, before)
  pool.give(bytes)
  assert.throws(() => pool.give(bytes), /given back twice/)
  const part = pool.take(1000)
  pool.give(part)
  pool.take(1000)
  assert.throws(() => pool.give(part), /given back twice/)
})
