// Goal: the primitive operations on data generations, as section 5.1 of the wire protocol specification lists them.
// Method: each operation on distinct values, on an empty bitmap slot, and at the ends of 64 bits.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  newCurrent,
  retireBitmap,
  sameGeneration,
  setAndRotateBitmap,
  shiftHistory,
  UUID_RESYNC_OFFSET,
  type Uuids,
  withPrimaryBit,
} from './uuids.ts'

const all: Uuids = { current: 0xc1n, bitmap: 0xb1n, history1: 0xa1n, history2: 0xa2n }
const noBitmap: Uuids = { ...all, bitmap: 0n }

test('shift-history', () => {
  assert.deepEqual(shiftHistory(all), { ...all, history2: 0xa1n })
})

test('set-and-rotate: a bitmap UUID becomes history, an empty slot does not', () => {
  assert.deepEqual(setAndRotateBitmap(all, 5n), { current: 0xc1n, bitmap: 5n, history1: 0xb1n, history2: 0xa1n })
  assert.deepEqual(setAndRotateBitmap(noBitmap, 5n), { ...all, bitmap: 5n })
})

test('set-and-rotate: 64 bits', () => {
  const high: Uuids = { ...all, bitmap: 0xffff_0000_0000_0001n }
  assert.equal(setAndRotateBitmap(high, high.bitmap + UUID_RESYNC_OFFSET).bitmap, 1n)
})

test('new-current: the bitmap counts from the old generation on; bit 0 is the role', () => {
  assert.deepEqual(newCurrent(noBitmap, 0x10n, true), { ...all, bitmap: 0xc1n, current: 0x11n })
  assert.deepEqual(newCurrent(noBitmap, 0x11n, false), { ...all, bitmap: 0xc1n, current: 0x10n })
  assert.equal(newCurrent(all, 2n ** 64n + 2n, false).current, 2n)
})

test('retire-bitmap', () => {
  assert.deepEqual(retireBitmap(all), { current: 0xc1n, bitmap: 0n, history1: 0xb1n, history2: 0xa1n })
  assert.equal(retireBitmap(noBitmap), noBitmap)
})

test('operations leave their argument alone', () => {
  const before = { ...all }
  shiftHistory(all)
  setAndRotateBitmap(all, 1n)
  newCurrent(all, 2n, true)
  retireBitmap(all)
  assert.deepEqual(all, before)
})

test('bit 0 is no part of the identity', () => {
  assert.ok(sameGeneration(0x10n, 0x11n))
  assert.ok(!sameGeneration(0x10n, 0x12n))
  assert.equal(withPrimaryBit(0x10n, true), 0x11n)
  assert.equal(withPrimaryBit(0xffff_ffff_ffff_ffffn, false), 0xffff_ffff_ffff_fffen)
})
