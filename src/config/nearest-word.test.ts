// Goal: the suggestion for a mistyped word. Method: typical slips, and the metric's own laws.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { didYouMean, editDistance, nearestWord } from './nearest-word.ts'

test('one insertion, deletion, change or swap is one step', () => {
  for (const slip of ['pingint', 'ping-nit', 'ping-inz', 'ping-intt', 'pnig-int']) {
    assert.equal(editDistance(slip, 'ping-int'), 1, slip)
  }
  assert.equal(editDistance('', 'abc'), 3)
  assert.equal(editDistance('kitten', 'sitting'), 3)
})

test('distance is symmetric, zero for equal words only, and at most the longer length', () => {
  const word = fc.string({ maxLength: 12 })
  fc.assert(
    fc.property(word, word, (a, b) => {
      const distance = editDistance(a, b)
      assert.equal(distance, editDistance(b, a))
      assert.equal(distance === 0, a === b)
      assert.ok(distance <= Math.max(a.length, b.length))
    }),
  )
})

test('the nearest word, if it is near', () => {
  const words = ['ping-int', 'ping-timeout', 'protocol']
  assert.equal(nearestWord('pingint', words), 'ping-int')
  assert.equal(nearestWord('Protokol', words), 'protocol')
  assert.equal(nearestWord('al-extents', words), undefined)
  assert.equal(nearestWord('', words), undefined)
  assert.equal(nearestWord('x'.repeat(1000), words), undefined)
  assert.equal(didYouMean('pingint', words), "Did you mean 'ping-int'?")
  assert.equal(didYouMean('al-extents', words), '')
})
