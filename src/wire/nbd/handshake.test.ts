// Goal: the handshake codecs are byte-exact and survive any input.
// Method: bytes written by hand from the specification, round trips, every truncation, limits.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { readU64, writeU64 } from './bytes.ts'
import {
  decodeExportName,
  decodeGreeting,
  decodeInfo,
  decodeInfoRequest,
  decodeMetaContext,
  decodeMetaContextRequest,
  decodeOptionHeader,
  decodeOptionReplyHeader,
  encodeClientFlags,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoRequest,
  encodeInfoText,
  encodeMetaContext,
  encodeMetaContextRequest,
  encodeOption,
  encodeOptionReply,
  encodeServerEntry,
  encodeText,
} from './handshake.ts'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'))
const ascii = (text: string): string => Buffer.from(text, 'latin1').toString('hex')

test('greeting: NBDMAGIC, IHAVEOPT, flags', () => {
  const wanted = `${ascii('NBDMAGIC')}${ascii('IHAVEOPT')}0003`
  assert.equal(hex(encodeGreeting(3)), wanted)
  assert.equal(decodeGreeting(bytes(`ffff${wanted}`), 2), 3)
  assert.equal(decodeGreeting(bytes(wanted.replace(ascii('IHAVEOPT'), '0000420281861253')), 0), undefined)
  assert.equal(hex(encodeClientFlags(3)), '00000003')
})

test('option and option reply headers', () => {
  assert.equal(hex(encodeOption(7, bytes('aabb'))), `${ascii('IHAVEOPT')}0000000700000002aabb`)
  assert.deepEqual(decodeOptionHeader(bytes(`${ascii('IHAVEOPT')} 0000000a ffffffff`), 0), {
    option: 10,
    lengthBytes: 0xffff_ffff,
  })
  assert.equal(decodeOptionHeader(bytes(`${ascii('IHAVEOPS')} 0000000a 00000000`), 0), undefined)
  const reply = '0003e889045565a9 00000006 80000001 00000002 6869'.replaceAll(' ', '')
  assert.equal(hex(encodeOptionReply(6, 0x8000_0001, bytes('6869'))), reply)
  assert.deepEqual(decodeOptionReplyHeader(bytes(reply), 0), { option: 6, type: 0x8000_0001, lengthBytes: 2 })
  assert.equal(decodeOptionReplyHeader(bytes(reply.replace('0003', '0004')), 0), undefined)
})

test('replies that describe an export', () => {
  assert.equal(hex(encodeServerEntry('r0', 'disk')), `00000002${ascii('r0')}${ascii('disk')}`)
  assert.equal(hex(encodeInfoExport(2 ** 40 + 512, 0x0565)), '000000000100000002000565')
  assert.equal(hex(encodeInfoText(1, 'r0')), `0001${ascii('r0')}`)
  assert.equal(
    hex(encodeInfoBlockSize({ minimum: 512, preferred: 4096, maximum: 2 ** 25 })),
    '0003000002000000100002000000',
  )
  assert.equal(hex(encodeMetaContext({ id: 1, name: 'base:allocation' })), `00000001${ascii('base:allocation')}`)
  assert.equal(hex(encodeExportNameReply(4096, 0x0101, false)), '00000000000010000101')
  const long = encodeExportNameReply(4096, 0x0101, true)
  assert.equal(hex(long), `00000000000010000101${'00'.repeat(124)}`)
})

test('descriptions of an export are read back, wrong lengths are not', () => {
  const whole = encodeInfoExport(2 ** 40 + 512, 0x0565)
  assert.deepEqual(decodeInfo(whole), { type: 'export', sizeBytes: 2 ** 40 + 512, transmissionFlags: 0x0565 })
  for (let length = 0; length < whole.length; length++) assert.equal(decodeInfo(whole.subarray(0, length)), undefined)
  const sizes = encodeInfoBlockSize({ minimum: 1, preferred: 2, maximum: 3 })
  assert.deepEqual(decodeInfo(sizes), { type: 'block-size', blockSize: { minimum: 1, preferred: 2, maximum: 3 } })
  assert.equal(decodeInfo(sizes.subarray(0, 13)), undefined)
  assert.deepEqual(decodeInfo(encodeInfoText(2, 'x')), { type: 'description', text: 'x' })
  assert.deepEqual(decodeInfo(bytes('00ff 01')), { type: 'other' })
  assert.equal(decodeMetaContext(bytes('000001')), undefined)
  assert.deepEqual(decodeMetaContext(bytes('00000001 61')), { id: 1, name: 'a' })
})

test('GO and INFO: layout, every truncation, a byte too many', () => {
  const wanted = `00000002${ascii('r0')}000200000003`
  assert.equal(hex(encodeInfoRequest({ name: 'r0', types: [0, 3] })), wanted)
  assert.deepEqual(decodeInfoRequest(bytes(wanted)), { name: 'r0', types: [0, 3] })
  for (let length = 0; length < wanted.length; length += 2) {
    const cut = decodeInfoRequest(bytes(wanted.slice(0, length)))
    assert.ok('fault' in cut && cut.fault === 0x8000_0003, `${length / 2} bytes`)
  }
  assert.ok('fault' in decodeInfoRequest(bytes(`${wanted}00`)))
})

test('META_CONTEXT: layout, every truncation, a byte too many', () => {
  const wanted = `00000001${ascii('e')}00000002 00000005${ascii('base:')}00000000`.replaceAll(' ', '')
  assert.equal(hex(encodeMetaContextRequest({ name: 'e', queries: ['base:', ''] })), wanted)
  assert.deepEqual(decodeMetaContextRequest(bytes(wanted)), { name: 'e', queries: ['base:', ''] })
  for (let length = 0; length < wanted.length; length += 2) {
    const cut = decodeMetaContextRequest(bytes(wanted.slice(0, length)))
    assert.ok('fault' in cut && cut.fault === 0x8000_0003, `${length / 2} bytes`)
  }
  assert.ok('fault' in decodeMetaContextRequest(bytes(`${wanted}00`)))
  assert.ok('fault' in decodeMetaContextRequest(bytes('00000000 ffffffff')), 'more queries than bytes')
})

test('names: at the limit, above it, not UTF-8', () => {
  assert.equal(decodeExportName(encodeText('é'.repeat(2048))), 'é'.repeat(2048))
  const long = decodeExportName(encodeText('x'.repeat(4097)))
  assert.ok(typeof long !== 'string' && long.fault === 0x8000_0009)
  const bad = decodeExportName(bytes('c328'))
  assert.ok(typeof bad !== 'string' && bad.fault === 0x8000_0003)
  const query = decodeMetaContextRequest(encodeMetaContextRequest({ name: '', queries: ['x'.repeat(4097)] }))
  assert.ok('fault' in query && query.fault === 0x8000_0009)
})

test('round trips of option data', () => {
  const name = fc.string({ unit: 'grapheme', maxLength: 40 })
  fc.assert(
    fc.property(name, fc.array(fc.nat(0xffff), { maxLength: 8 }), (text, types) => {
      assert.deepEqual(decodeInfoRequest(encodeInfoRequest({ name: text, types })), { name: text, types })
    }),
  )
  fc.assert(
    fc.property(name, fc.array(name, { maxLength: 5 }), (text, queries) => {
      assert.deepEqual(decodeMetaContextRequest(encodeMetaContextRequest({ name: text, queries })), {
        name: text,
        queries,
      })
    }),
  )
})

test('64-bit numbers: exact to 2^53 - 1, beyond every size above it', () => {
  const at = new Uint8Array(8)
  fc.assert(
    fc.property(fc.maxSafeNat(), (value) => {
      writeU64(at, 0, value)
      assert.equal(Buffer.from(at).readBigUInt64BE(), BigInt(value))
      assert.equal(readU64(at, 0), value)
    }),
  )
  assert.ok(readU64(bytes('ffffffffffffffff'), 0) > Number.MAX_SAFE_INTEGER)
})
