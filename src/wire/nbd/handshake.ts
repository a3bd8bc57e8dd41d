// The handshake phase of NBD: fixed newstyle. Source: doc/proto.md, sections "Newstyle negotiation", "Fixed newstyle
// negotiation", "Option types" and "Option reply types". Everything is big-endian.
//
//   greeting (server)        u64 "NBDMAGIC", u64 "IHAVEOPT", u16 handshake flags                              18 bytes
//   answer (client)          u32 client flags                                                                  4 bytes
//   option (client)          u64 "IHAVEOPT", u32 option, u32 length, data                                 16 + length
//   option reply (server)    u64 0x3e889045565a9, u32 option, u32 reply type, u32 length, data            20 + length
//   reply to EXPORT_NAME     u64 size, u16 transmission flags, 124 zeroes unless NO_ZEROES             10 or 134 bytes
//
//   data of GO, INFO         u32 name length, name, u16 count, count times u16 information type
//   data of .._META_CONTEXT  u32 name length, name, u32 count, count times (u32 length, query)
//   NBD_REP_SERVER           u32 name length, name, description (the rest)
//   NBD_REP_INFO             u16 type, then: EXPORT u64 size, u16 flags; NAME, DESCRIPTION the text;
//                            BLOCK_SIZE u32 minimum, u32 preferred, u32 maximum
//   NBD_REP_META_CONTEXT     u32 context id, name (the rest)

import { concatBytes, readU16, readU32, readU64, writeU16, writeU32, writeU64 } from './bytes.ts'
import {
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_MAGIC_HIGH,
  NBD_MAGIC_LOW,
  NBD_OPTS_MAGIC_HIGH,
  NBD_OPTS_MAGIC_LOW,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_MAGIC_HIGH,
  NBD_REP_MAGIC_LOW,
  NBD_STRING_BYTES_MAX,
} from './constants.ts'

export const GREETING_BYTES = 18
export const CLIENT_FLAGS_BYTES = 4
export const OPTION_HEADER_BYTES = 16
export const OPTION_REPLY_HEADER_BYTES = 20
export const EXPORT_NAME_REPLY_BYTES = 10
export const EXPORT_NAME_ZEROES_BYTES = 124

/** Why the data of an option cannot be understood: the reply type to send, and a sentence for the client's log. */
export interface OptionFault {
  readonly fault: number
  readonly text: string
}

export interface BlockSize {
  /** Bytes; smallest length and alignment of a request. */
  readonly minimum: number
  /** Bytes. */
  readonly preferred: number
  /** Bytes; longest request. */
  readonly maximum: number
}

const encoder = new TextEncoder()
const strictDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const lenientDecoder = new TextDecoder('utf-8', { ignoreBOM: true })

export const encodeText = (text: string): Uint8Array => encoder.encode(text)

/** undefined if the bytes are not UTF-8. */
export function decodeText(bytes: Uint8Array): string | undefined {
  try {
    return strictDecoder.decode(bytes)
  } catch {
    return undefined // the decoder has no other way to say "not UTF-8"
  }
}

/** For text that is only shown to people. */
export const decodeTextLeniently = (bytes: Uint8Array): string => lenientDecoder.decode(bytes)

// ---- greeting -------------------------------------------------------------------------------------------------------

export function encodeGreeting(handshakeFlags: number): Uint8Array {
  const bytes = new Uint8Array(GREETING_BYTES)
  writeU32(bytes, 0, NBD_MAGIC_HIGH)
  writeU32(bytes, 4, NBD_MAGIC_LOW)
  writeU32(bytes, 8, NBD_OPTS_MAGIC_HIGH)
  writeU32(bytes, 12, NBD_OPTS_MAGIC_LOW)
  writeU16(bytes, 16, handshakeFlags)
  return bytes
}

/** The handshake flags; undefined if this is not the greeting of a newstyle server. */
export function decodeGreeting(bytes: Uint8Array, at: number): number | undefined {
  if (readU32(bytes, at) !== NBD_MAGIC_HIGH || readU32(bytes, at + 4) !== NBD_MAGIC_LOW) return undefined
  if (readU32(bytes, at + 8) !== NBD_OPTS_MAGIC_HIGH || readU32(bytes, at + 12) !== NBD_OPTS_MAGIC_LOW) return undefined
  return readU16(bytes, at + 16)
}

export function encodeClientFlags(clientFlags: number): Uint8Array {
  const bytes = new Uint8Array(CLIENT_FLAGS_BYTES)
  writeU32(bytes, 0, clientFlags)
  return bytes
}

// ---- options and their replies --------------------------------------------------------------------------------------

export interface OptionHeader {
  readonly option: number
  readonly lengthBytes: number
}

export function encodeOption(option: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(OPTION_HEADER_BYTES + data.length)
  writeU32(bytes, 0, NBD_OPTS_MAGIC_HIGH)
  writeU32(bytes, 4, NBD_OPTS_MAGIC_LOW)
  writeU32(bytes, 8, option)
  writeU32(bytes, 12, data.length)
  bytes.set(data, OPTION_HEADER_BYTES)
  return bytes
}

/** undefined if the magic number is wrong. */
export function decodeOptionHeader(bytes: Uint8Array, at: number): OptionHeader | undefined {
  if (readU32(bytes, at) !== NBD_OPTS_MAGIC_HIGH || readU32(bytes, at + 4) !== NBD_OPTS_MAGIC_LOW) return undefined
  return { option: readU32(bytes, at + 8), lengthBytes: readU32(bytes, at + 12) }
}

export interface OptionReplyHeader {
  readonly option: number
  readonly type: number
  readonly lengthBytes: number
}

export function encodeOptionReply(option: number, type: number, data?: Uint8Array): Uint8Array {
  const lengthBytes = data === undefined ? 0 : data.length
  const bytes = new Uint8Array(OPTION_REPLY_HEADER_BYTES + lengthBytes)
  writeU32(bytes, 0, NBD_REP_MAGIC_HIGH)
  writeU32(bytes, 4, NBD_REP_MAGIC_LOW)
  writeU32(bytes, 8, option)
  writeU32(bytes, 12, type)
  writeU32(bytes, 16, lengthBytes)
  if (data !== undefined) bytes.set(data, OPTION_REPLY_HEADER_BYTES)
  return bytes
}

/** undefined if the magic number is wrong. */
export function decodeOptionReplyHeader(bytes: Uint8Array, at: number): OptionReplyHeader | undefined {
  if (readU32(bytes, at) !== NBD_REP_MAGIC_HIGH || readU32(bytes, at + 4) !== NBD_REP_MAGIC_LOW) return undefined
  return { option: readU32(bytes, at + 8), type: readU32(bytes, at + 12), lengthBytes: readU32(bytes, at + 16) }
}

// ---- data of options ------------------------------------------------------------------------------------------------

export interface InfoRequest {
  readonly name: string
  /** NBD_INFO_*; unknown ones are kept, the server passes over them. */
  readonly types: readonly number[]
}

export function encodeInfoRequest(request: InfoRequest): Uint8Array {
  const name = encodeText(request.name)
  const bytes = new Uint8Array(4 + name.length + 2 + 2 * request.types.length)
  writeU32(bytes, 0, name.length)
  bytes.set(name, 4)
  let at = 4 + name.length
  writeU16(bytes, at, request.types.length)
  for (const type of request.types) {
    at += 2
    writeU16(bytes, at, type)
  }
  return bytes
}

export function decodeInfoRequest(data: Uint8Array): InfoRequest | OptionFault {
  const name = decodeCountedName(data)
  if (typeof name !== 'string') return name
  let at = 4 + readU32(data, 0)
  if (data.length < at + 2) return invalid('the number of information requests is missing')
  const count = readU16(data, at)
  at += 2
  if (data.length !== at + 2 * count)
    return invalid(`${count} information requests do not fit the length of the option`)
  const types: number[] = []
  for (; at < data.length; at += 2) types.push(readU16(data, at))
  return { name, types }
}

export interface MetaContextRequest {
  readonly name: string
  readonly queries: readonly string[]
}

export function encodeMetaContextRequest(request: MetaContextRequest): Uint8Array {
  const parts = [counted(request.name), u32(request.queries.length), ...request.queries.map(counted)]
  return concatBytes(parts)
}

export function decodeMetaContextRequest(data: Uint8Array): MetaContextRequest | OptionFault {
  const name = decodeCountedName(data)
  if (typeof name !== 'string') return name
  let at = 4 + readU32(data, 0)
  if (data.length < at + 4) return invalid('the number of queries is missing')
  const count = readU32(data, at)
  at += 4
  const queries: string[] = []
  for (let i = 0; i < count; i++) {
    if (data.length < at + 4) return invalid(`query ${i} of ${count} is missing`)
    const lengthBytes = readU32(data, at)
    at += 4
    if (lengthBytes > data.length - at) return invalid(`query ${i} is longer than the option`)
    if (lengthBytes > NBD_STRING_BYTES_MAX) return tooBig('a query', lengthBytes)
    const query = decodeText(data.subarray(at, at + lengthBytes))
    if (query === undefined) return invalid(`query ${i} is not UTF-8`)
    queries.push(query)
    at += lengthBytes
  }
  if (at !== data.length) return invalid(`${data.length - at} bytes after the last query`)
  return { name, queries }
}

/** The name alone is the data of EXPORT_NAME. */
export function decodeExportName(data: Uint8Array): string | OptionFault {
  if (data.length > NBD_STRING_BYTES_MAX) return tooBig('the export name', data.length)
  return decodeText(data) ?? invalid('the export name is not UTF-8')
}

function decodeCountedName(data: Uint8Array): string | OptionFault {
  if (data.length < 4) return invalid('the length of the export name is missing')
  const lengthBytes = readU32(data, 0)
  if (lengthBytes > data.length - 4) return invalid('the export name is longer than the option')
  return decodeExportName(data.subarray(4, 4 + lengthBytes))
}

const invalid = (text: string): OptionFault => ({ fault: NBD_REP_ERR_INVALID, text })

const tooBig = (what: string, lengthBytes: number): OptionFault => ({
  fault: NBD_REP_ERR_TOO_BIG,
  text: `${what} has ${lengthBytes} bytes, the limit is ${NBD_STRING_BYTES_MAX}`,
})

// ---- data of option replies -----------------------------------------------------------------------------------------

export function encodeServerEntry(name: string, description: string): Uint8Array {
  return concatBytes([counted(name), encodeText(description)])
}

export function encodeInfoExport(sizeBytes: number, transmissionFlags: number): Uint8Array {
  const bytes = new Uint8Array(12)
  writeU16(bytes, 0, NBD_INFO_EXPORT)
  writeU64(bytes, 2, sizeBytes)
  writeU16(bytes, 10, transmissionFlags)
  return bytes
}

export function encodeInfoText(type: typeof NBD_INFO_NAME | typeof NBD_INFO_DESCRIPTION, text: string): Uint8Array {
  const bytes = encodeText(text)
  const data = new Uint8Array(2 + bytes.length)
  writeU16(data, 0, type)
  data.set(bytes, 2)
  return data
}

export function encodeInfoBlockSize(blockSize: BlockSize): Uint8Array {
  const bytes = new Uint8Array(14)
  writeU16(bytes, 0, NBD_INFO_BLOCK_SIZE)
  writeU32(bytes, 2, blockSize.minimum)
  writeU32(bytes, 6, blockSize.preferred)
  writeU32(bytes, 10, blockSize.maximum)
  return bytes
}

export type ExportInfo =
  | { readonly type: 'export'; readonly sizeBytes: number; readonly transmissionFlags: number }
  | { readonly type: 'name' | 'description'; readonly text: string }
  | { readonly type: 'block-size'; readonly blockSize: BlockSize }
  /** A type that we do not know: to be ignored. */
  | { readonly type: 'other' }

/** undefined if the length does not fit the type. */
export function decodeInfo(data: Uint8Array): ExportInfo | undefined {
  if (data.length < 2) return undefined
  switch (readU16(data, 0)) {
    case NBD_INFO_EXPORT:
      if (data.length !== 12) return undefined
      return { type: 'export', sizeBytes: readU64(data, 2), transmissionFlags: readU16(data, 10) }
    case NBD_INFO_NAME:
      return { type: 'name', text: decodeTextLeniently(data.subarray(2)) }
    case NBD_INFO_DESCRIPTION:
      return { type: 'description', text: decodeTextLeniently(data.subarray(2)) }
    case NBD_INFO_BLOCK_SIZE:
      if (data.length !== 14) return undefined
      return {
        type: 'block-size',
        blockSize: { minimum: readU32(data, 2), preferred: readU32(data, 6), maximum: readU32(data, 10) },
      }
    default:
      return { type: 'other' }
  }
}

export interface MetaContext {
  readonly id: number
  readonly name: string
}

export function encodeMetaContext(context: MetaContext): Uint8Array {
  return concatBytes([u32(context.id), encodeText(context.name)])
}

/** undefined if it is too short. */
export function decodeMetaContext(data: Uint8Array): MetaContext | undefined {
  if (data.length < 4) return undefined
  return { id: readU32(data, 0), name: decodeTextLeniently(data.subarray(4)) }
}

export function encodeExportNameReply(sizeBytes: number, transmissionFlags: number, zeroes: boolean): Uint8Array {
  const bytes = new Uint8Array(EXPORT_NAME_REPLY_BYTES + (zeroes ? EXPORT_NAME_ZEROES_BYTES : 0))
  writeU64(bytes, 0, sizeBytes)
  writeU16(bytes, 8, transmissionFlags)
  return bytes
}

function counted(text: string): Uint8Array {
  const bytes = encodeText(text)
  return concatBytes([u32(bytes.length), bytes])
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  writeU32(bytes, 0, value)
  return bytes
}
