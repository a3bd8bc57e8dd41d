// Goal: comparing four bytes at a time finds what comparing single bytes finds.
// Method: one byte differs, at each place, in memory that begins at each remainder of four.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isAllZero, sameBytes } from './bytes.ts'

const LENGTHS = [0, 1, 3, 4, 5, 8, 23]

test('a single byte that differs is found wherever it is', () => {
  for (const length of LENGTHS) {
    for (const offset of [0, 1, 2, 3, 4]) {
      const zero = new Uint8Array(length)
      const other = new Uint8Array(new ArrayBuffer(offset + length + 3), offset, length)
      assert.ok(sameBytes(zero, other, length) && sameBytes(other, zero, length) && isAllZero(other))
      for (let at = 0; at < length; at++) {
        other[at] = 0x80
        assert.ok(!sameBytes(zero, other, length), `${length} bytes at ${offset}, byte ${at}`)
        assert.ok(!sameBytes(other, zero, length) && !isAllZero(other))
        assert.ok(sameBytes(zero, other, at), 'what lies behind the length is not looked at')
        other[at] = 0
      }
    }
  }
})
