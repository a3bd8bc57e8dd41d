// Goal: a flood of lines becomes a few, and the reader is told how many there were. Method: the clock by hand.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LineLimit } from './line-limit.ts'

test('so many lines in a window, then none; the next window tells how many were left out', () => {
  const limit = new LineLimit({ linesMax: 2, windowMs: 1000 })
  assert.deepEqual(
    [0, 10, 20, 999].map((nowMs) => limit.admit('x', nowMs)),
    ['x', 'x', undefined, undefined],
  )
  assert.equal(limit.admit('x', 1000), 'x (and 2 more of this kind before)')
  assert.equal(limit.admit('x', 1001), 'x')
  assert.equal(limit.admit('x', 1002), undefined)
})
