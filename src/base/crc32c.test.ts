// Goal: both forms of CRC-32C give the published values, in one piece and in several, at every length and alignment.
// Method: known vectors (RFC 3720 B.4, the activity log's check values, the digest of a zero block as a kernel sends it)
// and a bit-by-bit model written from the definition.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crc32c, crc32cRaw } from './crc32c.ts'
import { Prng } from './prng.ts'

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text)

function bitwiseRaw(bytes: Uint8Array, register: number): number {
  let crc = register
  for (const byte of bytes) {
    for (let bit = 0; bit < 8; bit++) {
      const out = (crc ^ (byte >>> bit)) & 1
      crc >>>= 1
      if (out === 1) crc = (crc ^ 0x82f63b78) >>> 0
    }
  }
  return crc >>> 0
}

test('standard form: published vectors', () => {
  assert.equal(crc32c(ascii('')), 0)
  assert.equal(crc32c(ascii('123456789')), 0xe3069283)
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa)
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43)
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e)
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => 31 - i)), 0x113fdb5c)
})

test('standard form: a block of zeroes, as the Linux kernel sends it (89 41 f9 98, little-endian)', () => {
  assert.equal(crc32c(new Uint8Array(4096)), 0x98f94189)
})

test('raw form: check values of the activity log', () => {
  assert.equal(crc32cRaw(ascii('123456789')), 0x58e3fa20)
  assert.equal(crc32cRaw(new Uint8Array(4096)), 0)
})

test('equals the bit-by-bit definition at every length and alignment', () => {
  const prng = new Prng(1)
  const bytes = new Uint8Array(80)
  prng.fill(bytes)
  for (let from = 0; from < 9; from++) {
    for (let to = from; to <= bytes.length; to++) {
      const part = bytes.subarray(from, to)
      const register = prng.u32()
      assert.equal(crc32cRaw(part, register), bitwiseRaw(part, register), `bytes ${from}..${to}`)
      assert.equal(crc32c(part), ~bitwiseRaw(part, 0xffffffff) >>> 0, `bytes ${from}..${to}`)
    }
  }
})

test('in pieces: the seed carries the checksum on', () => {
  const bytes = new Uint8Array(1000)
  new Prng(2).fill(bytes)
  for (const cut of [0, 1, 7, 8, 9, 500, 999, 1000]) {
    assert.equal(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut))), crc32c(bytes))
    assert.equal(crc32cRaw(bytes.subarray(cut), crc32cRaw(bytes.subarray(0, cut))), crc32cRaw(bytes))
  }
})
