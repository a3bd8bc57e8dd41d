// Goal: replies leave in order, neighbouring headers as one chunk, data without a copy. Method: a few sequences by hand.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Gather } from './gather.ts'

function header(gather: Gather, value: number, lengthBytes = 16): void {
  const at = gather.reserve(lengthBytes)
  gather.slab.fill(value, at, at + lengthBytes)
}

test('neighbouring headers are one chunk, data goes by reference', () => {
  const gather = new Gather()
  const data = new Uint8Array(100).fill(9)
  header(gather, 1)
  header(gather, 2)
  gather.append(data)
  header(gather, 3)
  assert.equal(gather.lengthBytes, 148)
  const chunks = gather.take()
  assert.deepEqual(
    chunks.map((chunk) => chunk.length),
    [32, 100, 16],
  )
  assert.equal(chunks[1], data)
  assert.equal(gather.lengthBytes, 0)
  assert.deepEqual(gather.take(), [])
})

test('what was taken is not written again', () => {
  const gather = new Gather()
  const taken: Uint8Array[] = []
  for (let i = 0; i < 1000; i++) {
    header(gather, i % 251, 28)
    if (i % 3 === 0) taken.push(...gather.take())
  }
  taken.push(...gather.take())
  const all = Buffer.concat(taken)
  assert.equal(all.length, 28_000)
  for (let i = 0; i < 1000; i++) assert.equal(all[i * 28 + 27], i % 251)
})
