// The packets of DRBD 8.4, protocol versions 86 to 101: one table entry each (wire-protocol.md 3.1; the section with the
// layout stands at the entry). The header, with volume, command and length, is in codec.ts and framer.ts.

import { assert } from '../../base/assert.ts'
import { KIB } from '../../base/units.ts'
import { flag8, group, i32, paddedString, reserved, sizeBytes32, u8, u16, u32, u64, uuid64 } from '../fields.ts'
import {
  BITMAP_PACKET_BYTES_MAX,
  CHALLENGE_BYTES_MAX,
  DIGEST_BYTES_MAX,
  DISCARD_BYTES_MAX,
  dataBytesMax,
  FF_WSAME,
  headerBytes,
  REQUEST_BYTES_MAX,
} from './constants.ts'
import {
  type BodyOf,
  type Condition,
  defaulted,
  integrityDigest,
  onlyIf,
  type PacketEntry,
  packet,
  rest,
  terminatedString,
  usually,
  type WireContext,
} from './packet.ts'

const since =
  (apv: number): Condition =>
  (context) =>
    context.apv >= apv
const withQueueLimits: Condition = (context) => (context.features & FF_WSAME) !== 0

const SECTOR_MULTIPLE = 512
const ALGORITHM_BYTES = 64
/** No logical block is larger; 3.5 asks for exactly one. */
const LOGICAL_BLOCK_BYTES_MAX = 64 * KIB

/** Sectors are 512 bytes; the block id is opaque (3.4) and kept in two halves, so that no bigint is made per request. */
const location = { sector: u64, blockIdHi: u32, blockIdLo: u32 }
const writeHead = { ...location, sequence: u32, flags: u32 }
const requestBytes = sizeBytes32({ min: SECTOR_MULTIPLE, max: REQUEST_BYTES_MAX, multipleOf: SECTOR_MULTIPLE })
const discardBytes = sizeBytes32({ min: 0, max: DISCARD_BYTES_MAX, multipleOf: SECTOR_MULTIPLE })
const rangeBytes = sizeBytes32({ min: 0, max: 0xffff_fe00, multipleOf: SECTOR_MULTIPLE })
/** Kernels leave stale memory here; kept so that a packet can be written again as it came. */
const stalePad = usually(0, u32)
const requestHead = { ...location, sizeBytes: requestBytes, pad: stalePad }
const digestOfRequest = rest({ min: 0, max: DIGEST_BYTES_MAX, placement: 'head' })
const blocks = rest({ min: 0, max: (context) => dataBytesMax(context.apv), multipleOf: SECTOR_MULTIPLE })

const bitmapBytesMax = (context: WireContext): number => BITMAP_PACKET_BYTES_MAX - headerBytes(context.apv)

/** 3.5, 3.6: the size of the data is what the length leaves. */
const dataFields = { ...writeHead, digest: integrityDigest, payload: blocks }
/** 3.8. Sizes are not checked: kernels send 0 and wrapped values for discards (6.2). */
const ackFields = { ...location, sizeBytes: u32, sequence: u32 }
const discardFields = { ...writeHead, sizeBytes: discardBytes }
/** 3.10 */
const rangeFields = { sector: u64, sizeBytes: rangeBytes, pad: stalePad }
/** 3.12 */
const protocolFields = {
  protocol: u32,
  afterSb0p: u32,
  afterSb1p: u32,
  afterSb2p: u32,
  connFlags: u32,
  twoPrimaries: u32,
  integrityAlg: defaulted(since(87), terminatedString(ALGORITHM_BYTES), ''),
}
/** 3.16: a state word each, see state-word.ts. */
const stateChangeFields = { mask: u32, value: u32 }
const queueLimits = group({
  physicalBlockBytes: u32,
  logicalBlockBytes: u32,
  alignmentOffset: u32,
  ioMin: u32,
  ioOpt: u32,
  discardEnabled: flag8,
  discardZeroesData: flag8,
  writeSameCapable: flag8,
  pad: reserved(1),
})

/** Low halves of the block ids of all writes that can be in flight at once. */
const IN_DOUBT_BYTES_MAX = 1024 * 1024

const ackLayout = { fastLayout: 'ack' } as const
const dataLayout = { fastLayout: 'data' } as const

export const PACKETS = [
  packet('P_DATA', 0x00, 'data', dataFields, dataLayout),
  packet('P_DATA_REPLY', 0x01, 'data', dataFields, dataLayout),
  packet('P_RS_DATA_REPLY', 0x02, 'data', dataFields, dataLayout),
  // 3.9: the number is opaque and comes back as it went.
  packet('P_BARRIER', 0x03, 'data', { barrier: u32, pad: reserved(4) }),
  // 3.17: whole words of the bitmap, or nothing at the end; see bitmap-codec.ts.
  packet('P_BITMAP', 0x04, 'data', { payload: rest({ min: 0, max: bitmapBytesMax, multipleOf: 8 }) }),
  packet('P_UNPLUG_REMOTE', 0x07, 'data', {}),
  packet('P_DATA_REQUEST', 0x08, 'data', requestHead),
  packet('P_RS_DATA_REQUEST', 0x09, 'data', requestHead),
  // 3.13: below version 89; the string came with version 88.
  packet('P_SYNC_PARAM', 0x0a, 'data', {
    resyncRateKib: u32,
    verifyAlg: defaulted(since(88), terminatedString(ALGORITHM_BYTES), ''),
  }),
  packet('P_PROTOCOL', 0x0b, 'data', protocolFields),
  // 3.15
  packet('P_UUIDS', 0x0c, 'data', {
    current: uuid64,
    bitmap: uuid64,
    history1: uuid64,
    history2: uuid64,
    dirtyBits: u64,
    uuidFlags: u64,
  }),
  // 3.14
  packet('P_SIZES', 0x0d, 'data', {
    backingSectors: u64,
    userSectors: u64,
    currentSectors: u64,
    maxBioBytes: u32,
    queueOrderType: u16,
    ddsFlags: u16,
    limits: onlyIf(withQueueLimits, queueLimits),
  }),
  packet('P_STATE', 0x0e, 'data', { state: u32 }),
  packet('P_SYNC_UUID', 0x0f, 'data', { uuid: uuid64 }),
  // 3.11: a challenge or response of a wrong size is refused by whoever checks it, not as a broken stream.
  packet('P_AUTH_CHALLENGE', 0x10, 'data', { payload: rest({ min: 0, max: CHALLENGE_BYTES_MAX }) }),
  packet('P_AUTH_RESPONSE', 0x11, 'data', { payload: rest({ min: 0, max: CHALLENGE_BYTES_MAX }) }),
  packet('P_STATE_CHG_REQ', 0x12, 'data', stateChangeFields),
  packet('P_PING', 0x13, 'meta', {}),
  packet('P_PING_ACK', 0x14, 'meta', {}),
  packet('P_RECV_ACK', 0x15, 'meta', ackFields, ackLayout),
  packet('P_WRITE_ACK', 0x16, 'meta', ackFields, ackLayout),
  packet('P_RS_WRITE_ACK', 0x17, 'meta', ackFields, ackLayout),
  packet('P_SUPERSEDED', 0x18, 'meta', ackFields, ackLayout),
  packet('P_NEG_ACK', 0x19, 'meta', ackFields, ackLayout),
  packet('P_NEG_DREPLY', 0x1a, 'meta', ackFields, ackLayout),
  packet('P_NEG_RS_DREPLY', 0x1b, 'meta', ackFields, ackLayout),
  packet('P_BARRIER_ACK', 0x1c, 'meta', { barrier: u32, setSize: u32 }),
  packet('P_STATE_CHG_REPLY', 0x1d, 'meta', { code: i32 }),
  packet('P_OV_REQUEST', 0x1e, 'data', requestHead),
  packet('P_OV_REPLY', 0x1f, 'data', { ...requestHead, digest: digestOfRequest }),
  packet('P_OV_RESULT', 0x20, 'meta', ackFields, ackLayout),
  packet('P_CSUM_RS_REQUEST', 0x21, 'data', { ...requestHead, digest: digestOfRequest }),
  packet('P_RS_IS_IN_SYNC', 0x22, 'meta', ackFields, ackLayout),
  // 3.13: the four values of the resync controller came with version 95.
  packet('P_SYNC_PARAM89', 0x23, 'data', {
    resyncRateKib: u32,
    verifyAlg: paddedString(ALGORITHM_BYTES),
    csumsAlg: paddedString(ALGORITHM_BYTES),
    cPlanAhead: onlyIf(since(95), u32),
    cDelayTarget: onlyIf(since(95), u32),
    cFillTarget: onlyIf(since(95), u32),
    cMaxRateKib: onlyIf(since(95), u32),
  }),
  // 3.18: the encoding byte and at least one byte of code.
  packet('P_COMPRESSED_BITMAP', 0x24, 'data', {
    encoding: u8,
    payload: rest({ min: 1, max: (context) => bitmapBytesMax(context) - 1 }),
  }),
  // 3.19
  packet('P_DELAY_PROBE', 0x27, 'both', { sequence: u32, offsetMicroseconds: u32 }),
  packet('P_OUT_OF_SYNC', 0x28, 'data', rangeFields),
  packet('P_RS_CANCEL', 0x29, 'meta', ackFields, ackLayout),
  packet('P_CONN_ST_CHG_REQ', 0x2a, 'data', stateChangeFields),
  packet('P_CONN_ST_CHG_REPLY', 0x2b, 'meta', { code: i32 }),
  packet('P_RETRY_WRITE', 0x2c, 'meta', ackFields, ackLayout),
  packet('P_PROTOCOL_UPDATE', 0x2d, 'data', protocolFields),
  packet('P_TRIM', 0x31, 'data', discardFields),
  packet('P_RS_THIN_REQ', 0x32, 'data', requestHead),
  packet('P_RS_DEALLOCATED', 0x33, 'data', rangeFields),
  packet('P_WSAME', 0x34, 'data', {
    ...discardFields,
    digest: integrityDigest,
    payload: rest({ min: SECTOR_MULTIPLE, max: LOGICAL_BLOCK_BYTES_MAX, multipleOf: SECTOR_MULTIPLE }),
  }),
  packet('P_ZEROES', 0x36, 'data', discardFields),
  // Ours (docs/protocol.md), only to a peer that announced FF_COPRIME_ORDER.
  packet('P_ORDER', 0x200, 'data', {
    order: u32,
    orderFlags: u32,
    coordinator: u32,
    extentsMax: u32,
    extentBytes: u64,
  }),
  packet('P_WRITE_NOW', 0x201, 'data', { ...location, nowFlags: u32, pad: reserved(4) }),
  packet('P_LOCK_EXTENT', 0x202, 'data', { extent: u64 }),
  packet('P_LOCK_EXTENT_ACK', 0x203, 'data', { extent: u64, lockFlags: u32, keptUs: u32 }),
  // Block ids, a big-endian u32 each.
  packet('P_IN_DOUBT', 0x204, 'data', { payload: rest({ min: 0, max: IN_DOUBT_BYTES_MAX, multipleOf: 4 }) }),
  packet('P_APPLIED', 0x205, 'data', { payload: rest({ min: 0, max: IN_DOUBT_BYTES_MAX, multipleOf: 4 }) }),
  packet('P_BOOT_ID', 0x206, 'data', { bootId: uuid64, instance: uuid64 }),
  packet('P_INITIAL_META', 0xfff1, 'meta', {}, { handshake: true }),
  packet('P_INITIAL_DATA', 0xfff2, 'data', {}, { handshake: true }),
  // 3.11
  packet(
    'P_CONNECTION_FEATURES',
    0xfffe,
    'data',
    { protocolMin: u32, features: u32, protocolMax: u32, pad: reserved(4), future: reserved(56) },
    { handshake: true },
  ),
] as const

type Entry = (typeof PACKETS)[number]
type PacketFrom<E> =
  E extends PacketEntry<infer T, infer F>
    ? { readonly type: T; readonly volume: number } & BodyOf<F> extends infer P
      ? { readonly [K in keyof P]: P[K] }
      : never
    : never

export type KnownPacket = PacketFrom<Entry>

/** A command that 8.4 does not have; its payload is skipped. */
export interface UnknownPacket {
  readonly type: 'unknown'
  readonly volume: number
  readonly command: number
  readonly lengthBytes: number
}

/** Without a volume in the header (h80, h95) the volume is 0 (2.4). */
export type Packet = KnownPacket | UnknownPacket
export type PacketType = KnownPacket['type']
export type PacketOf<T extends Packet['type']> = Extract<Packet, { readonly type: T }>

const entriesByType = new Map<string, PacketEntry>(PACKETS.map((entry) => [entry.type, entry]))
const entriesByCommand = new Map<number, PacketEntry>(PACKETS.map((entry) => [entry.command, entry]))

export function packetEntry(type: PacketType): PacketEntry {
  const entry = entriesByType.get(type)
  assert(entry !== undefined, 'there is no packet of this type')
  return entry
}

export const packetEntryOf = (command: number): PacketEntry | undefined => entriesByCommand.get(command)
