// Goal: fixed fields stand in bytes as their table says, at any offset, and refuse what does not fit.
// Method: bytes by hand, round trips at both ends of the range, values just outside of it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AssertionFailure } from '../base/assert.ts'
import {
  BadFieldError,
  type FixedField,
  flag8,
  group,
  i32,
  paddedString,
  reserved,
  sizeBytes32,
  u8,
  u16,
  u32,
  u64,
  uuid64,
} from './fields.ts'

function written<T>(field: FixedField<T>, value: T): string {
  const bytes = new Uint8Array(field.lengthBytes + 4).fill(0xee)
  field.write(new DataView(bytes.buffer), 2, value, 'it')
  assert.deepEqual(
    [...bytes.subarray(0, 2), ...bytes.subarray(-2)],
    [0xee, 0xee, 0xee, 0xee],
    'bytes beside it changed',
  )
  return Buffer.from(bytes.subarray(2, -2)).toString('hex')
}

function read<T>(field: FixedField<T>, hex: string): T {
  const bytes = Uint8Array.from(Buffer.from(`eeee${hex}eeee`, 'hex'))
  return field.read(new DataView(bytes.buffer), 2, 'it')
}

function check<T>(field: FixedField<T>, value: T, hex: string): void {
  assert.equal(written(field, value), hex)
  assert.deepEqual(read(field, hex), value)
}

test('integers are big-endian', () => {
  check(u8, 0xab, 'ab')
  check(u16, 0x1234, '1234')
  check(u32, 0xfedcba98, 'fedcba98')
  check(i32, -10, 'fffffff6')
  check(i32, 0x7fffffff, '7fffffff')
  check(u64, 0x1_2345_6789, '0000000123456789')
  check(u64, Number.MAX_SAFE_INTEGER, '001fffffffffffff')
  check(uuid64, 0xfedcba9876543210n, 'fedcba9876543210')
})

test('u64 gives every number up to 2^53 - 1 and refuses the rest', () => {
  fc.assert(fc.property(fc.maxSafeNat(), (value) => check(u64, value, value.toString(16).padStart(16, '0'))))
  for (const hex of ['0020000000000000', 'ffffffffffffffff']) {
    assert.throws(() => read(u64, hex), {
      code: 'E_BAD_FIELD',
      details: { field: 'it', problem: `${BigInt(`0x${hex}`)} is above 2^53 - 1` },
    })
  }
})

test('flags are 0 or 1, and any other value is true', () => {
  check(flag8, true, '01')
  check(flag8, false, '00')
  assert.equal(read(flag8, '80'), true)
})

test('sizes have limits', () => {
  const size = sizeBytes32({ min: 512, max: 4096, multipleOf: 512 })
  for (const good of [512, 1024, 4096]) check(size, good, good.toString(16).padStart(8, '0'))
  for (const bad of [0, 511, 513, 4097, 4608, 0xffff_fe00]) {
    assert.throws(() => read(size, bad.toString(16).padStart(8, '0')), BadFieldError, `${bad}`)
    assert.throws(() => written(size, bad), AssertionFailure, `${bad}`)
  }
})

test('strings are padded with NUL', () => {
  const name = paddedString(8)
  check(name, 'sha1', '7368613100000000')
  check(name, '', '0000000000000000')
  check(name, 'sevench', '736576656e636800')
  assert.equal(read(name, '7368613100ffffff'), 'sha1', 'what stands behind the NUL is not looked at')
  assert.throws(() => read(name, '7365766e63686172'), BadFieldError)
  assert.throws(() => read(name, '73c3a90000000000'), BadFieldError)
  for (const bad of ['eightchr', 'é', 'a\0b', '\n']) assert.throws(() => written(name, bad), AssertionFailure, bad)
})

test('groups are their members one behind the other, without the reserved bytes', () => {
  const point = group({ x: u16, gap: reserved(2), y: u8 })
  check(point, { x: 1, y: 2 }, '0001000002')
  assert.deepEqual(read(point, '0001ffff02'), { x: 1, y: 2 })
})

test('values of our own that do not fit are assertions', () => {
  const cases: (readonly [FixedField<number>, number])[] = [
    [u8, 256],
    [u8, -1],
    [u16, 65536],
    [u32, 2 ** 32],
    [u32, 0.5],
    [u32, Number.NaN],
    [i32, 2 ** 31],
    [u64, 2 ** 53],
    [u64, -1],
  ]
  for (const [field, value] of cases) assert.throws(() => written(field, value), AssertionFailure, `${value}`)
  for (const value of [-1n, 1n << 64n]) assert.throws(() => written(uuid64, value), AssertionFailure)
})
