// Goal: what a sector holds is recognised: whose write, torn, misplaced, zero, foreign.
// Method: payloads, and payloads damaged in each of these ways.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeSector, decodeSectors, describeValue, encodePayload, writtenValue } from './payload.ts'

const payload = encodePayload({ writer: 7, operation: 3, sector: 100, sectors: 2 })

test('every sector of a write has the value of the write, and knows its place', () => {
  assert.deepEqual(decodeSectors(payload, 100), [writtenValue(7, 3), writtenValue(7, 3)])
  assert.equal(describeValue(writtenValue(7, 3)), 'writer 7 operation 3')
  assert.equal(decodeSector(payload.subarray(512), 100), 'data of sector 101 in sector 100')
  assert.equal(decodeSector(new Uint8Array(512), 5), 0)
})

test('a sector made of two writes is seen, wherever the tear is', () => {
  const other = encodePayload({ writer: 7, operation: 4, sector: 100, sectors: 1 })
  for (let at = 4; at < 512; at += 4) {
    const torn = payload.slice(0, 512)
    torn.set(other.subarray(at), at)
    const value = decodeSector(torn, 100)
    // The writes differ in bytes 8 to 11 of each record only: a tear before the first or after the last of them is none.
    if (at <= 8) assert.equal(value, writtenValue(7, 4), `at ${at}`)
    else if (at > 504) assert.equal(value, writtenValue(7, 3), `at ${at}`)
    else assert.match(String(value), /^torn sector 100/, `at ${at}`)
  }
  const halfZero = payload.slice(0, 512)
  halfZero.fill(0, 0, 256)
  assert.match(String(decodeSector(halfZero, 100)), /^bytes /)
})

test('foreign bytes have a value of their own', () => {
  const text = new Uint8Array(512)
  text.set(new TextEncoder().encode('hello'))
  const other = text.slice()
  other[511] = 1
  assert.notEqual(decodeSector(text, 0), decodeSector(other, 0))
  assert.equal(decodeSector(text, 0), decodeSector(text.slice(), 9))
})
