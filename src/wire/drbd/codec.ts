// Packets to bytes, and the body of a packet back into a packet; framer.ts splits the stream and reads the headers. Facts:
// wire-protocol.md section 2.
//
//   h80   | u32 magic 83740267 | u16 command | u16 length |
//   h95   | u16 magic 835a | u16 command | u32 length |
//   h100  | u32 magic 8620ec20 | u16 volume | u16 command | u32 length | u32 pad, 0 |
//
// h100 from version 100 on; below it h80, but h95 for payloads above 32 KiB at 95 to 99; the packets before the version is
// agreed always in h80.
//
// Every packet can be written and read by walking its table entry. The layouts that are sent for each request are also
// written out by hand; a test holds both ways equal.

import { assert } from '../../base/assert.ts'
import { KIB } from '../../base/units.ts'
import { BadFieldError, readAscii, readU64, writeAscii, writeU64 } from '../fields.ts'
import { dataBytesMax, H80_LENGTH_MAX, H80_PAYLOAD_BYTES_MAX, MAGIC_H80, MAGIC_H95, MAGIC_H100 } from './constants.ts'
import { type FixedSlot, isPresent, lengthBounds, type PacketEntry, type TailSlot, type WireContext } from './packet.ts'
import { type KnownPacket, type Packet, type PacketOf, packetEntry } from './packets.ts'

export type { WireContext } from './packet.ts'

type DataPacket = PacketOf<'P_DATA' | 'P_DATA_REPLY' | 'P_RS_DATA_REPLY'>
type AckPacket = PacketOf<
  | 'P_RECV_ACK'
  | 'P_WRITE_ACK'
  | 'P_RS_WRITE_ACK'
  | 'P_SUPERSEDED'
  | 'P_NEG_ACK'
  | 'P_NEG_DREPLY'
  | 'P_NEG_RS_DREPLY'
  | 'P_OV_RESULT'
  | 'P_RS_IS_IN_SYNC'
  | 'P_RS_CANCEL'
  | 'P_RETRY_WRITE'
>

const HEADER_BYTES_MAX = 16
const FIXED_24 = 24

/**
 * Appends the packet to `out`: header, fixed part and digest in one buffer, then the payload by reference. Returns the number
 * of bytes appended. The payload must not change until it has been sent.
 */
export function encodePacket(packet: Packet, context: WireContext, out: Uint8Array[]): number {
  assert(packet.type !== 'unknown', 'a packet of unknown type cannot be sent')
  const entry = packetEntry(packet.type)
  switch (entry.fastLayout) {
    case 'data':
      return encodeData(entry, packet as DataPacket, context, out)
    case 'ack':
      return encodeAck(entry, packet as AckPacket, context, out)
    case undefined:
      return encodeByTable(packet, context, out)
  }
}

/** Where the body of a packet is; filled in by the framer. */
export interface PacketSource {
  readonly volume: number
  readonly lengthBytes: number
  /** The fixed part stands in `fixedView` from `fixedAt` on. */
  readonly fixedView: DataView
  readonly fixedAt: number
  /** A copy of a part of the body. */
  bodyBytes(offsetBytes: number, lengthBytes: number): Uint8Array
  /** The payload of a data packet, from here to the end of the body: the caller's from now on. */
  payload(offsetBytes: number): Uint8Array
}

/** Reads a packet whose length has been found right for its entry under this context. */
export function decodePacket(entry: PacketEntry, source: PacketSource, context: WireContext): KnownPacket {
  switch (entry.fastLayout) {
    case 'data':
      return decodeData(entry, source, context)
    case 'ack':
      return decodeAck(entry, source)
    case undefined:
      return decodeByTable(entry, source, context)
  }
}

// ---- by hand --------------------------------------------------------------------------------------------------------

function encodeData(entry: PacketEntry, packet: DataPacket, context: WireContext, out: Uint8Array[]): number {
  const { sector, digest, payload } = packet
  assert(Number.isSafeInteger(sector) && sector >= 0, 'the sector of a write is not an integer from 0 to 2^53 - 1')
  assert(digest.length === context.integrityBytes, 'the digest of a write has another size than the context says')
  assert(payload.length % 512 === 0, 'the data of a write is not a multiple of 512 bytes')
  assert(payload.length <= dataBytesMax(context.apv), 'the data of a write is larger than the protocol version allows')
  const headBytes = FIXED_24 + digest.length
  reservePool(HEADER_BYTES_MAX + headBytes)
  const start = poolUsed
  const at = writeHeader(entry, packet.volume, headBytes + payload.length, context.apv)
  const view = poolView
  writeU64(view, at, sector)
  view.setUint32(at + 8, packet.blockIdHi)
  view.setUint32(at + 12, packet.blockIdLo)
  view.setUint32(at + 16, packet.sequence)
  view.setUint32(at + 20, packet.flags)
  if (digest.length > 0) pool.set(digest, at + FIXED_24)
  const headEnd = at + headBytes
  out.push(takePool(start, headEnd))
  if (payload.length > 0) out.push(payload)
  return headEnd - start + payload.length
}

function encodeAck(entry: PacketEntry, packet: AckPacket, context: WireContext, out: Uint8Array[]): number {
  const { sector } = packet
  assert(Number.isSafeInteger(sector) && sector >= 0, 'the sector of an ack is not an integer from 0 to 2^53 - 1')
  reservePool(HEADER_BYTES_MAX + FIXED_24)
  const start = poolUsed
  const at = writeHeader(entry, packet.volume, FIXED_24, context.apv)
  const view = poolView
  writeU64(view, at, sector)
  view.setUint32(at + 8, packet.blockIdHi)
  view.setUint32(at + 12, packet.blockIdLo)
  view.setUint32(at + 16, packet.sizeBytes)
  view.setUint32(at + 20, packet.sequence)
  const end = at + FIXED_24
  out.push(takePool(start, end))
  return end - start
}

function decodeData(entry: PacketEntry, source: PacketSource, context: WireContext): DataPacket {
  const view = source.fixedView
  const at = source.fixedAt
  const payloadAt = FIXED_24 + context.integrityBytes
  return {
    type: entry.type as DataPacket['type'],
    volume: source.volume,
    sector: readSector(entry, view, at),
    blockIdHi: view.getUint32(at + 8),
    blockIdLo: view.getUint32(at + 12),
    sequence: view.getUint32(at + 16),
    flags: view.getUint32(at + 20),
    digest: source.bodyBytes(FIXED_24, context.integrityBytes),
    payload: source.payload(payloadAt),
  }
}

function decodeAck(entry: PacketEntry, source: PacketSource): AckPacket {
  const view = source.fixedView
  const at = source.fixedAt
  return {
    type: entry.type as AckPacket['type'],
    volume: source.volume,
    sector: readSector(entry, view, at),
    blockIdHi: view.getUint32(at + 8),
    blockIdLo: view.getUint32(at + 12),
    sizeBytes: view.getUint32(at + 16),
    sequence: view.getUint32(at + 20),
  }
}

const readSector = (entry: PacketEntry, view: DataView, at: number): number =>
  readU64(view, at, (entry.fixed[0] as FixedSlot).label)

// ---- by table -------------------------------------------------------------------------------------------------------

/** `encodePacket` for any packet, by its table entry. */
export function encodeByTable(packet: KnownPacket, context: WireContext, out: Uint8Array[]): number {
  const entry = packetEntry(packet.type)
  const values = packet as unknown as Readonly<Record<string, unknown>>
  const { fixedBytes } = lengthBounds(entry, context)
  let headBytes = fixedBytes
  let lengthBytes = fixedBytes
  for (const slot of entry.tails) {
    if (!isPresent(slot, context)) continue
    const tailBytes = checkedTailBytes(slot, values[slot.name], context)
    lengthBytes += tailBytes
    if (slot.field.placement === 'head') headBytes += tailBytes
  }
  reservePool(HEADER_BYTES_MAX + headBytes)
  const start = poolUsed
  const at = writeHeader(entry, packet.volume, lengthBytes, context.apv)
  for (const slot of entry.fixed) {
    if (!isPresent(slot, context)) continue
    const value = values[slot.name] ?? slot.impliedValue
    assert(value !== undefined || !slot.optional, `${slot.label} is missing at protocol version ${context.apv}`)
    slot.field.write(poolView, at + slot.at, value, slot.label)
  }
  let tailAt = at + fixedBytes
  let payload: Uint8Array | undefined
  for (const slot of entry.tails) {
    if (!isPresent(slot, context)) continue
    if (slot.field.placement === 'own') payload = values[slot.name] as Uint8Array
    else tailAt += writeTail(slot, values[slot.name], tailAt)
  }
  const headEnd = at + headBytes
  assert(tailAt === headEnd, `${entry.type}: ${tailAt - at} bytes written, ${headBytes} announced`)
  out.push(takePool(start, headEnd))
  if (payload !== undefined && payload.length > 0) out.push(payload)
  return headEnd - start + (payload?.length ?? 0)
}

/** `decodePacket` for any packet, by its table entry. */
export function decodeByTable(entry: PacketEntry, source: PacketSource, context: WireContext): KnownPacket {
  const values: Record<string, unknown> = { type: entry.type, volume: source.volume }
  let tailAt = 0
  for (const slot of entry.fixed) {
    if (!isPresent(slot, context)) continue
    tailAt = slot.at + slot.field.lengthBytes
    const value = slot.field.read(source.fixedView, source.fixedAt + slot.at, slot.label)
    if (value === undefined || (slot.optional && value === slot.impliedValue)) continue
    values[slot.name] = value
  }
  const lastTail = entry.tails[entry.tails.length - 1]
  for (const slot of entry.tails) {
    if (!isPresent(slot, context)) {
      values[slot.name] = slot.valueWhenAbsent
      continue
    }
    const tailBytes = slot === lastTail ? source.lengthBytes - tailAt : slot.field.lengthBytesMax(context)
    const bytes = source.bodyBytes(tailAt, tailBytes)
    values[slot.name] = slot.field.encoding === 'bytes' ? bytes : readTerminated(bytes, slot.label)
    tailAt += tailBytes
  }
  return values as unknown as KnownPacket
}

function checkedTailBytes(slot: TailSlot, value: unknown, context: WireContext): number {
  const { field, label } = slot
  const tailBytes = field.encoding === 'bytes' ? (value as Uint8Array).length : (value as string).length + 1
  const min = field.lengthBytesMin(context)
  const max = field.lengthBytesMax(context)
  assert(tailBytes >= min && tailBytes <= max, `${label}: ${tailBytes} bytes, allowed are ${min} to ${max}`)
  assert(tailBytes % field.multipleOf === 0, `${label}: ${tailBytes} bytes are not a multiple of ${field.multipleOf}`)
  return tailBytes
}

function writeTail(slot: TailSlot, value: unknown, at: number): number {
  if (slot.field.encoding === 'bytes') {
    const bytes = value as Uint8Array
    pool.set(bytes, at)
    return bytes.length
  }
  const text = value as string
  writeAscii(poolView, at, text, slot.label)
  pool[at + text.length] = 0
  return text.length + 1
}

function readTerminated(bytes: Uint8Array, label: string): string {
  const end = bytes.length - 1
  if (bytes[end] !== 0) throw new BadFieldError({ field: label, problem: 'the string has no terminating NUL' })
  return readAscii(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, end, label)
}

// ---- headers, and the memory they are written to ----------------------------------------------------------------------

/** Writes a header at the beginning of the reserved part of the pool and returns where it ends. */
function writeHeader(entry: PacketEntry, volume: number, lengthBytes: number, apv: number): number {
  const at = poolUsed
  const view = poolView
  if (apv >= 100 && !entry.handshake) {
    assert(volume >= 0 && volume <= 0xffff, 'the volume does not fit in u16')
    view.setUint32(at, MAGIC_H100)
    view.setUint16(at + 4, volume)
    view.setUint16(at + 6, entry.command)
    view.setUint32(at + 8, lengthBytes)
    view.setUint32(at + 12, 0)
    return at + 16
  }
  assert(volume === 0, 'there is only volume 0 below protocol version 100')
  if (apv >= 95 && lengthBytes > H80_PAYLOAD_BYTES_MAX) {
    view.setUint16(at, MAGIC_H95)
    view.setUint16(at + 2, entry.command)
    view.setUint32(at + 4, lengthBytes)
    return at + 8
  }
  assert(lengthBytes <= H80_LENGTH_MAX, 'the packet is too long for its header')
  view.setUint32(at, MAGIC_H80)
  view.setUint16(at + 4, entry.command)
  view.setUint16(at + 6, lengthBytes)
  return at + 8
}

// Heads are cut from a larger buffer: a buffer of its own for each ack would cost more than the ack. A used-up pool lives on
// as long as one of its heads waits to be sent.
const POOL_BYTES = 64 * KIB
let pool = new Uint8Array(POOL_BYTES)
let poolView = new DataView(pool.buffer)
let poolUsed = 0

function reservePool(lengthBytes: number): void {
  if (poolUsed + lengthBytes <= POOL_BYTES) return
  pool = new Uint8Array(POOL_BYTES)
  poolView = new DataView(pool.buffer)
  poolUsed = 0
}

function takePool(start: number, end: number): Uint8Array {
  poolUsed = end
  return new Uint8Array(pool.buffer, start, end - start)
}
