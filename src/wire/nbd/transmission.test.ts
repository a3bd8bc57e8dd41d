// Goal: the transmission codecs are byte-exact. Method: bytes written by hand from the specification, truncations.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  decodeBlockStatus,
  decodeErrorPayload,
  emptyReplyHeader,
  emptyRequestHeader,
  encodeBlockStatus,
  encodeErrorPayload,
  readReplyHeader,
  readRequest,
  replyHeaderBytes,
  writeChunkHeader,
  writeOffsetDataHeader,
  writeRequest,
  writeSimpleReply,
} from './transmission.ts'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'))
const cookie = { cookieHigh: 0xf0e1d2c3, cookieLow: 0xb4a59687 }

test('request: layout and the way back', () => {
  const wanted = '25609513 0001 0006 f0e1d2c3b4a59687 0000010000000200 00001000'
  const request = { flags: 1, type: 6, ...cookie, offsetBytes: 2 ** 40 + 512, lengthBytes: 4096 }
  const written = new Uint8Array(30)
  writeRequest(written, 2, request)
  assert.equal(hex(written.subarray(2)), wanted.replaceAll(' ', ''))
  const read = emptyRequestHeader()
  assert.equal(readRequest(written, 2, read), true)
  assert.deepEqual(read, request)
})

test('request: the largest values, and a wrong magic number', () => {
  const read = emptyRequestHeader()
  assert.equal(readRequest(bytes(`25609513${'ff'.repeat(24)}`), 0, read), true)
  assert.equal(read.lengthBytes, 0xffff_ffff)
  assert.equal(read.cookieHigh, 0xffff_ffff)
  assert.ok(read.offsetBytes > Number.MAX_SAFE_INTEGER)
  assert.equal(readRequest(bytes(`25609514${'00'.repeat(24)}`), 0, read), false)
})

test('replies: layout and the way back', () => {
  const simple = new Uint8Array(16)
  writeSimpleReply(simple, 0, cookie, 22)
  assert.equal(hex(simple), '6744669800000016f0e1d2c3b4a59687')
  const chunk = new Uint8Array(20)
  writeChunkHeader(chunk, 0, cookie, { flags: 1, type: 0x8001 }, 6)
  assert.equal(hex(chunk), '668e33ef00018001f0e1d2c3b4a5968700000006')
  const data = new Uint8Array(28)
  writeOffsetDataHeader(data, 0, cookie, 1024, 512)
  assert.equal(hex(data), '668e33ef00010001f0e1d2c3b4a59687000002080000000000000400')

  const header = emptyReplyHeader()
  readReplyHeader(simple, 0, header)
  assert.deepEqual(header, { structured: false, ...cookie, error: 22, flags: 1, type: 0, payloadBytes: 0 })
  readReplyHeader(data, 0, header)
  assert.deepEqual(header, { structured: true, ...cookie, error: 0, flags: 1, type: 1, payloadBytes: 520 })
  assert.equal(replyHeaderBytes(0x67446698), 16)
  assert.equal(replyHeaderBytes(0x668e33ef), 20)
  assert.equal(replyHeaderBytes(0x25609513), undefined)
})

test('block status: layout, every truncation, empty extents', () => {
  const extents = [
    { lengthBytes: 4096, status: 0 },
    { lengthBytes: 0xffff_fe00, status: 3 },
  ]
  const wanted = '00000001 00001000 00000000 fffffe00 00000003'.replaceAll(' ', '')
  assert.equal(hex(encodeBlockStatus(1, extents)), wanted)
  assert.deepEqual(decodeBlockStatus(bytes(wanted)), { contextId: 1, extents })
  for (let length = 0; length < 20; length++) {
    const cut = decodeBlockStatus(bytes(wanted).subarray(0, length))
    assert.equal(cut === undefined, length !== 12, `${length} bytes`)
  }
  assert.equal(decodeBlockStatus(bytes('00000001 00000000 00000000')), undefined)
})

test('error chunks: layout, offset, every truncation', () => {
  const payload = encodeErrorPayload(28, new Uint8Array(Buffer.from('full')))
  assert.equal(hex(payload), '0000001c000466756c6c')
  assert.deepEqual(decodeErrorPayload(0x8001, payload), { error: 28, message: 'full', offsetBytes: undefined })
  for (let length = 0; length < payload.length; length++) {
    assert.equal(decodeErrorPayload(0x8001, payload.subarray(0, length)), undefined)
  }
  const offset = bytes('00000005 0000 0000000000001000')
  assert.deepEqual(decodeErrorPayload(0x8002, offset), { error: 5, message: '', offsetBytes: 4096 })
  assert.equal(decodeErrorPayload(0x8002, offset.subarray(0, 13)), undefined)
  assert.equal(decodeErrorPayload(0x8001, offset), undefined, 'bytes after the message')
  assert.equal(decodeErrorPayload(0x8001, bytes('00000000 0000')), undefined, 'an error that is none')
})
