// The transmission phase of NBD. Source: doc/proto.md, sections "Request message", "Simple reply message", "Structured
// reply chunk message" and "Structured reply types". Everything is big-endian.
//
//   request            u32 0x25609513, u16 flags, u16 type, u64 cookie, u64 offset, u32 length [, payload of WRITE]
//                      0                4          6         8           16          24                       28 bytes
//   simple reply       u32 0x67446698, u32 error, u64 cookie [, data of READ]                                 16 bytes
//                      0                4          8
//   structured chunk   u32 0x668e33ef, u16 flags, u16 type, u64 cookie, u32 length, payload          20 bytes + length
//                      0                4          6         8           16
//   OFFSET_DATA        u64 offset, data
//   OFFSET_HOLE        u64 offset, u32 hole size
//   BLOCK_STATUS       u32 context id, then for each extent u32 length, u32 status flags
//   ERROR              u32 error, u16 message length, message
//   ERROR_OFFSET       u32 error, u16 message length, message, u64 offset
//
// The cookie (older texts: handle) belongs to the client. It is kept as two 32-bit halves and echoed as it came.

import { readU16, readU32, readU64, writeU16, writeU32, writeU64 } from './bytes.ts'
import {
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_ERROR_OFFSET,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from './constants.ts'
import { decodeTextLeniently } from './handshake.ts'

export const REQUEST_BYTES = 28
export const SIMPLE_REPLY_BYTES = 16
export const CHUNK_HEADER_BYTES = 20
export const OFFSET_DATA_HEADER_BYTES = CHUNK_HEADER_BYTES + 8
export const OFFSET_HOLE_PAYLOAD_BYTES = 12
export const EXTENT_BYTES = 8

/** Mutable, so that one object serves a whole session. */
export interface RequestHeader {
  flags: number
  type: number
  cookieHigh: number
  cookieLow: number
  /** Inexact above 2^53 - 1, where every device ends before it. */
  offsetBytes: number
  lengthBytes: number
}

export const emptyRequestHeader = (): RequestHeader => ({
  flags: 0,
  type: 0,
  cookieHigh: 0,
  cookieLow: 0,
  offsetBytes: 0,
  lengthBytes: 0,
})

export function writeRequest(bytes: Uint8Array, at: number, request: Readonly<RequestHeader>): void {
  writeU32(bytes, at, NBD_REQUEST_MAGIC)
  writeU16(bytes, at + 4, request.flags)
  writeU16(bytes, at + 6, request.type)
  writeU32(bytes, at + 8, request.cookieHigh)
  writeU32(bytes, at + 12, request.cookieLow)
  writeU64(bytes, at + 16, request.offsetBytes)
  writeU32(bytes, at + 24, request.lengthBytes)
}

/** False if the magic number is wrong; `into` is unchanged then. */
export function readRequest(bytes: Uint8Array, at: number, into: RequestHeader): boolean {
  if (readU32(bytes, at) !== NBD_REQUEST_MAGIC) return false
  into.flags = readU16(bytes, at + 4)
  into.type = readU16(bytes, at + 6)
  into.cookieHigh = readU32(bytes, at + 8)
  into.cookieLow = readU32(bytes, at + 12)
  into.offsetBytes = readU64(bytes, at + 16)
  into.lengthBytes = readU32(bytes, at + 24)
  return true
}

export interface Cookie {
  readonly cookieHigh: number
  readonly cookieLow: number
}

export function writeSimpleReply(bytes: Uint8Array, at: number, cookie: Cookie, error: number): void {
  writeU32(bytes, at, NBD_SIMPLE_REPLY_MAGIC)
  writeU32(bytes, at + 4, error)
  writeU32(bytes, at + 8, cookie.cookieHigh)
  writeU32(bytes, at + 12, cookie.cookieLow)
}

export interface ChunkKind {
  readonly flags: number
  readonly type: number
}

export function writeChunkHeader(
  bytes: Uint8Array,
  at: number,
  cookie: Cookie,
  kind: ChunkKind,
  payloadBytes: number,
): void {
  writeU32(bytes, at, NBD_STRUCTURED_REPLY_MAGIC)
  writeU16(bytes, at + 4, kind.flags)
  writeU16(bytes, at + 6, kind.type)
  writeU32(bytes, at + 8, cookie.cookieHigh)
  writeU32(bytes, at + 12, cookie.cookieLow)
  writeU32(bytes, at + 16, payloadBytes)
}

const DATA_DONE: ChunkKind = { flags: NBD_REPLY_FLAG_DONE, type: NBD_REPLY_TYPE_OFFSET_DATA }

/** Header of the only data chunk of a read; `lengthBytes` of data follow. */
export function writeOffsetDataHeader(
  bytes: Uint8Array,
  at: number,
  cookie: Cookie,
  offsetBytes: number,
  lengthBytes: number,
): void {
  writeChunkHeader(bytes, at, cookie, DATA_DONE, 8 + lengthBytes)
  writeU64(bytes, at + CHUNK_HEADER_BYTES, offsetBytes)
}

/** Either kind of reply header, mutable for the same reason as RequestHeader. */
export interface ReplyHeader {
  structured: boolean
  cookieHigh: number
  cookieLow: number
  /** Of a simple reply. */
  error: number
  /** Of a structured chunk, as are the rest. */
  flags: number
  type: number
  payloadBytes: number
}

export const emptyReplyHeader = (): ReplyHeader => ({
  structured: false,
  cookieHigh: 0,
  cookieLow: 0,
  error: 0,
  flags: 0,
  type: 0,
  payloadBytes: 0,
})

/** Bytes of the reply header that begins with this magic number; undefined if it is none. */
export function replyHeaderBytes(magic: number): number | undefined {
  if (magic === NBD_SIMPLE_REPLY_MAGIC) return SIMPLE_REPLY_BYTES
  if (magic === NBD_STRUCTURED_REPLY_MAGIC) return CHUNK_HEADER_BYTES
  return undefined
}

/** The bytes must begin with one of the two magic numbers and be as long as `replyHeaderBytes` says. */
export function readReplyHeader(bytes: Uint8Array, at: number, into: ReplyHeader): void {
  into.structured = readU32(bytes, at) === NBD_STRUCTURED_REPLY_MAGIC
  into.cookieHigh = readU32(bytes, at + 8)
  into.cookieLow = readU32(bytes, at + 12)
  into.error = into.structured ? 0 : readU32(bytes, at + 4)
  into.flags = into.structured ? readU16(bytes, at + 4) : NBD_REPLY_FLAG_DONE
  into.type = into.structured ? readU16(bytes, at + 6) : 0
  into.payloadBytes = into.structured ? readU32(bytes, at + 16) : 0
}

export interface StatusExtent {
  readonly lengthBytes: number
  /** NBD_STATE_* */
  readonly status: number
}

export function encodeBlockStatus(contextId: number, extents: readonly StatusExtent[]): Uint8Array {
  const bytes = new Uint8Array(4 + EXTENT_BYTES * extents.length)
  writeU32(bytes, 0, contextId)
  let at = 4
  for (const extent of extents) {
    writeU32(bytes, at, extent.lengthBytes)
    writeU32(bytes, at + 4, extent.status)
    at += EXTENT_BYTES
  }
  return bytes
}

/** undefined if there is no extent, an empty one, or a rest. */
export function decodeBlockStatus(payload: Uint8Array): { contextId: number; extents: StatusExtent[] } | undefined {
  if (payload.length < 4 + EXTENT_BYTES || (payload.length - 4) % EXTENT_BYTES !== 0) return undefined
  const extents: StatusExtent[] = []
  for (let at = 4; at < payload.length; at += EXTENT_BYTES) {
    const lengthBytes = readU32(payload, at)
    if (lengthBytes === 0) return undefined
    extents.push({ lengthBytes, status: readU32(payload, at + 4) })
  }
  return { contextId: readU32(payload, 0), extents }
}

export function encodeErrorPayload(error: number, message: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(6 + message.length)
  writeU32(bytes, 0, error)
  writeU16(bytes, 4, message.length)
  bytes.set(message, 6)
  return bytes
}

export interface ErrorPayload {
  readonly error: number
  readonly message: string
  /** Of ERROR_OFFSET only. */
  readonly offsetBytes: number | undefined
}

/** undefined if the lengths do not fit or the error is 0. An error type that we do not know is read as ERROR. */
export function decodeErrorPayload(type: number, payload: Uint8Array): ErrorPayload | undefined {
  if (payload.length < 6) return undefined
  const error = readU32(payload, 0)
  const end = 6 + readU16(payload, 4)
  if (error === 0 || end > payload.length) return undefined
  if (type === NBD_REPLY_TYPE_ERROR && end !== payload.length) return undefined
  const message = decodeTextLeniently(payload.subarray(6, end))
  if (type !== NBD_REPLY_TYPE_ERROR_OFFSET) return { error, message, offsetBytes: undefined }
  if (payload.length !== end + 8) return undefined
  return { error, message, offsetBytes: readU64(payload, end) }
}
