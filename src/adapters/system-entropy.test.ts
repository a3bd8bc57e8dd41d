// Goal: whole-range numbers that do not repeat. Method: counts that fail by chance less than once in 10^12 runs.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { SystemEntropy } from './system-entropy.ts'

test('64-bit numbers differ and use all bits', () => {
  const entropy = new SystemEntropy()
  const seen = new Set<bigint>()
  let ones = 0n
  let zeroes = 0n
  for (let i = 0; i < 5000; i++) {
    const value = entropy.u64()
    assert.ok(value >= 0n && value < 1n << 64n)
    seen.add(value)
    ones |= value
    zeroes |= ~value & 0xffff_ffff_ffff_ffffn
  }
  assert.equal(seen.size, 5000)
  assert.equal(ones, 0xffff_ffff_ffff_ffffn)
  assert.equal(zeroes, 0xffff_ffff_ffff_ffffn)
})

test('32-bit numbers are integers of the whole range, also when mixed with others', () => {
  const entropy = new SystemEntropy()
  let ones = 0
  const seen = new Set<number>()
  for (let i = 0; i < 3000; i++) {
    const value = entropy.u32()
    assert.ok(Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff)
    ones = (ones | value) >>> 0
    seen.add(value)
    if (i % 3 === 0) entropy.u64()
  }
  assert.equal(ones, 0xffff_ffff)
  assert.ok(seen.size > 2980, `${seen.size} different ones of 3000`)
})

test('two instances do not give the same numbers', () => {
  assert.notEqual(new SystemEntropy().u64(), new SystemEntropy().u64())
})
