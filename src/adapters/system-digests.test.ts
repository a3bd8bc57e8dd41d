// Goal: digests are those of the kernel's crypto API. Method: published values; crc32c as a real peer sent it.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { SystemDigests, UnknownDigestError } from './system-digests.ts'

const digests = new SystemDigests()
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const text = (value: string): Uint8Array => new TextEncoder().encode(value)

test('digests of known texts', () => {
  // wire-protocol.md, table of digests: observed on the wire
  assert.equal(hex(digests.digest('crc32c', text('123456789'))), '839206e3')
  assert.equal(hex(digests.digest('crc32c', new Uint8Array(4096))), '8941f998')
  assert.equal(hex(digests.digest('sha1', new Uint8Array(4096))), '1ceaf73df40e531df3bfb26b4fb7cd95fb7bff1d')
  // FIPS 180-4 examples, RFC 1321
  assert.equal(hex(digests.digest('md5', text('abc'))), '900150983cd24fb0d6963f7d28e17f72')
  const sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
  assert.equal(hex(digests.digest('sha256', text('abc'))), sha256)
  assert.match(hex(digests.digest('sha512', text('abc'))), /^ddaf35a193617aba/)
})

test('takes a view into a larger buffer', () => {
  const view = text('xx123456789yy').subarray(2, 11)
  for (const algorithm of ['crc32c', 'sha1', 'sha256', 'md5']) {
    assert.equal(hex(digests.digest(algorithm, view)), hex(digests.digest(algorithm, text('123456789'))), algorithm)
  }
})

test('sizes are those of the digests', () => {
  for (const algorithm of ['crc32c', 'md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512']) {
    assert.equal(digests.sizeBytes(algorithm), digests.digest(algorithm, text('x')).length, algorithm)
  }
})

test('keyed digests (RFC 2202 case 2, RFC 4231 case 2)', () => {
  const message = text('what do ya want for nothing?')
  assert.equal(hex(digests.hmac('sha1', text('Jefe'), message)), 'effcdf6ae5eb2fa2d27416d5f184df9c259a7c79')
  assert.equal(hex(digests.hmac('md5', text('Jefe'), message)), '750c783e6ab0b503eaa86e310a5db738')
  const sha256 = '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843'
  assert.equal(hex(digests.hmac('sha256', text('Jefe'), message)), sha256)
})

test('what is unknown has no size and is a typed error', () => {
  for (const algorithm of ['', 'sha-1', 'SHA1', 'crc32', 'hmac(sha1)', '__proto__']) {
    assert.equal(digests.sizeBytes(algorithm), undefined, algorithm)
    assert.throws(() => digests.digest(algorithm, text('x')), UnknownDigestError)
  }
  assert.throws(() => digests.hmac('crc32c', text('key'), text('x')), { code: 'E_UNKNOWN_DIGEST' })
})
