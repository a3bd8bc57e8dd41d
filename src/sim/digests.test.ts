// Goal: the digests that claim to be real are, and all have the size of their algorithm.
// Method: node:crypto for sha1 and its HMAC, the check values of the specification for CRC-32C.

import assert from 'node:assert/strict'
import { createHash, createHmac } from 'node:crypto'
import { test } from 'node:test'
import { Prng } from '../base/prng.ts'
import { crc32cRegister, SimDigests } from './digests.ts'

const digests = new SimDigests()
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

test('sha1 and its HMAC are those of node:crypto, at every length around the block borders', () => {
  const prng = new Prng(5)
  for (const lengthBytes of [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 128, 4096]) {
    const data = new Uint8Array(lengthBytes)
    prng.fill(data)
    assert.equal(
      hex(digests.digest('sha1', data)),
      createHash('sha1').update(data).digest('hex'),
      `${lengthBytes} bytes`,
    )
    for (const keyBytes of [0, 20, 64, 65]) {
      const key = new Uint8Array(keyBytes)
      prng.fill(key)
      assert.equal(hex(digests.hmac('sha1', key, data)), createHmac('sha1', key).update(data).digest('hex'))
    }
  }
})

test('sha1 of zeroes is that of node:crypto, and each caller has its own copy', () => {
  const expected = createHash('sha1').update(new Uint8Array(4096)).digest('hex')
  for (let i = 0; i < 3; i++) {
    const digest = digests.digest('sha1', new Uint8Array(4096))
    assert.equal(hex(digest), expected)
    digest.fill(0xdb)
  }
})

test('crc32c has the check values of the specification (wire 3.20, metadata 5.3)', () => {
  assert.equal(hex(digests.digest('crc32c', new Uint8Array(4096))), '8941f998')
  const nine = new TextEncoder().encode('123456789')
  assert.equal(crc32cRegister(0, nine), 0x58e3fa20)
  assert.equal(~crc32cRegister(0xffffffff, nine) >>> 0, 0xe3069283)
})

test('stand-ins have the right size, differ for different data and agree for the same', () => {
  for (const [algorithm, sizeBytes] of [
    ['md5', 16],
    ['sha256', 32],
  ] as const) {
    assert.equal(digests.sizeBytes(algorithm), sizeBytes)
    const seen = new Set<string>()
    for (let i = 0; i < 1_000; i++) seen.add(hex(digests.digest(algorithm, new Uint8Array([i & 0xff, i >> 8]))))
    assert.equal(seen.size, 1_000)
    assert.equal(hex(digests.digest(algorithm, new Uint8Array(9))), hex(digests.digest(algorithm, new Uint8Array(9))))
  }
  assert.equal(digests.sizeBytes('sha512'), undefined)
})
