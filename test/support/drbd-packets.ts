// fast-check arbitraries for every packet of the DRBD table and for the contexts they travel under.

import fc from 'fast-check'
import type { WireContext } from '../../src/wire/drbd/codec.ts'
import { dataBytesMax, FF_WSAME } from '../../src/wire/drbd/constants.ts'
import { type KnownPacket, PACKETS, type PacketOf, type PacketType } from '../../src/wire/drbd/packets.ts'

export const packetTypes: readonly PacketType[] = PACKETS.map(({ type }) => type)

export const contexts: fc.Arbitrary<WireContext> = fc.record({
  apv: fc.constantFrom(86, 87, 88, 89, 90, 94, 95, 96, 99, 100, 101),
  features: fc.integer({ min: 0, max: 15 }),
  integrityBytes: fc.constantFrom(0, 4, 16, 20, 32, 64),
})

/** A packet that may be sent under the context. */
export const packetsOf = (type: PacketType, context: WireContext): fc.Arbitrary<KnownPacket> => {
  const volume = context.apv >= 100 && !HANDSHAKE_TYPES.has(type) ? u16 : fc.constant(0)
  return fc
    .tuple(volume, bodies[type](context))
    .map(([number, body]) => ({ type, volume: number, ...body }) as unknown as KnownPacket)
}

/** Any packet together with its context. */
export const packetsWithContext: fc.Arbitrary<{ readonly packet: KnownPacket; readonly context: WireContext }> = fc
  .tuple(fc.constantFrom(...packetTypes), contexts)
  .chain(([type, context]) => packetsOf(type, context).map((packet) => ({ packet, context })))

type BodyOf<T extends PacketType> = Omit<PacketOf<T>, 'type' | 'volume'>

const HANDSHAKE_TYPES: ReadonlySet<string> = new Set(['P_INITIAL_DATA', 'P_INITIAL_META', 'P_CONNECTION_FEATURES'])

const u8 = fc.integer({ min: 0, max: 0xff })
const u16 = fc.integer({ min: 0, max: 0xffff })
const u32 = fc.oneof(
  fc.integer({ min: 0, max: 0xffff_ffff }),
  fc.constantFrom(0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff),
)
const i32 = fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff })
const u64 = fc.oneof(fc.maxSafeNat(), fc.constantFrom(0, 0xffff_ffff, 0x1_0000_0000, Number.MAX_SAFE_INTEGER))
const uuid = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
const bytes = (min: number, max: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: min, maxLength: max }).map((array) => new Uint8Array(array))
/** Small sizes are as good as large ones; the limits have tests of their own. */
const blocks = (max: number): fc.Arbitrary<Uint8Array> =>
  fc.tuple(fc.constantFrom(0, 512, 1024, 4096), u8).map(([length, value]) => {
    const array = new Uint8Array(Math.min(length, max)).fill(value)
    if (array.length > 0) array[array.length - 1] = value ^ 0xff
    return array
  })
const multiple512 = (min: number, max: number): fc.Arbitrary<number> =>
  fc.oneof(
    fc.integer({ min: min / 512, max: max / 512 }).map((n) => n * 512),
    fc.constantFrom(min, max),
  )
const name = fc.oneof(fc.constantFrom('', 'crc32c', 'sha1'), fc.stringMatching(/^[ -~]{0,63}$/))
const pad = fc.option(fc.integer({ min: 1, max: 0xffff_ffff }), { nil: undefined })

const location = { sector: u64, blockIdHi: u32, blockIdLo: u32 }
const ack = (): fc.Arbitrary<BodyOf<'P_WRITE_ACK'>> => fc.record({ ...location, sizeBytes: u32, sequence: u32 })
const request = (): fc.Arbitrary<BodyOf<'P_DATA_REQUEST'>> =>
  fc.record({ ...location, sizeBytes: multiple512(512, 1 << 20), pad }).map(withoutUndefined)
const requestWithDigest = (): fc.Arbitrary<BodyOf<'P_OV_REPLY'>> =>
  fc.record({ ...location, sizeBytes: multiple512(512, 1 << 20), pad, digest: bytes(0, 64) }).map(withoutUndefined)
const range = (): fc.Arbitrary<BodyOf<'P_OUT_OF_SYNC'>> =>
  fc.record({ sector: u64, sizeBytes: multiple512(0, 0xffff_fe00), pad }).map(withoutUndefined)
const write = { ...location, sequence: u32, flags: u32 }
const digest = (context: WireContext): fc.Arbitrary<Uint8Array> => bytes(context.integrityBytes, context.integrityBytes)
const data = (context: WireContext): fc.Arbitrary<BodyOf<'P_DATA'>> =>
  fc.record({ ...write, digest: digest(context), payload: blocks(dataBytesMax(context.apv)) })
const discard = (): fc.Arbitrary<BodyOf<'P_TRIM'>> => fc.record({ ...write, sizeBytes: multiple512(0, 128 << 20) })
const stateChange = (): fc.Arbitrary<BodyOf<'P_STATE_CHG_REQ'>> => fc.record({ mask: u32, value: u32 })
const stateReply = (): fc.Arbitrary<BodyOf<'P_STATE_CHG_REPLY'>> => fc.record({ code: i32 })
const nothing = (): fc.Arbitrary<object> => fc.constant({})
const authentication = (): fc.Arbitrary<BodyOf<'P_AUTH_CHALLENGE'>> => fc.record({ payload: bytes(0, 128) })
const protocol = (context: WireContext): fc.Arbitrary<BodyOf<'P_PROTOCOL'>> =>
  fc.record({
    protocol: u32,
    afterSb0p: u32,
    afterSb1p: u32,
    afterSb2p: u32,
    connFlags: u32,
    twoPrimaries: u32,
    integrityAlg: context.apv >= 87 ? name : fc.constant(''),
  })

const sizes = (context: WireContext): fc.Arbitrary<BodyOf<'P_SIZES'>> => {
  const limits = fc.record({
    physicalBlockBytes: u32,
    logicalBlockBytes: u32,
    alignmentOffset: u32,
    ioMin: u32,
    ioOpt: u32,
    discardEnabled: fc.boolean(),
    discardZeroesData: fc.boolean(),
    writeSameCapable: fc.boolean(),
  })
  return fc
    .record({
      backingSectors: u64,
      userSectors: u64,
      currentSectors: u64,
      maxBioBytes: u32,
      queueOrderType: u16,
      ddsFlags: u16,
      limits: (context.features & FF_WSAME) !== 0 ? limits.map((record) => ({ ...record })) : fc.constant(undefined),
    })
    .map(withoutUndefined)
}

const syncParam89 = (context: WireContext): fc.Arbitrary<BodyOf<'P_SYNC_PARAM89'>> => {
  const controller = context.apv >= 95 ? u32 : fc.constant(undefined)
  return fc
    .record({
      resyncRateKib: u32,
      verifyAlg: name,
      csumsAlg: name,
      cPlanAhead: controller,
      cDelayTarget: controller,
      cFillTarget: controller,
      cMaxRateKib: controller,
    })
    .map(withoutUndefined)
}

const blockIds = () =>
  fc.record({ payload: fc.integer({ min: 0, max: 100 }).map((ids) => new Uint8Array(4 * ids).fill(3)) })

const bodies: { readonly [T in PacketType]: (context: WireContext) => fc.Arbitrary<BodyOf<T>> } = {
  P_DATA: data,
  P_DATA_REPLY: data,
  P_RS_DATA_REPLY: data,
  P_BARRIER: () => fc.record({ barrier: u32 }),
  P_BITMAP: () =>
    fc.record({ payload: fc.integer({ min: 0, max: 510 }).map((words) => new Uint8Array(8 * words).fill(7)) }),
  P_UNPLUG_REMOTE: nothing,
  P_DATA_REQUEST: request,
  P_RS_DATA_REQUEST: request,
  P_SYNC_PARAM: ({ apv }) => fc.record({ resyncRateKib: u32, verifyAlg: apv >= 88 ? name : fc.constant('') }),
  P_PROTOCOL: protocol,
  P_UUIDS: () =>
    fc.record({ current: uuid, bitmap: uuid, history1: uuid, history2: uuid, dirtyBits: u64, uuidFlags: u64 }),
  P_SIZES: sizes,
  P_STATE: () => fc.record({ state: u32 }),
  P_SYNC_UUID: () => fc.record({ uuid }),
  P_AUTH_CHALLENGE: authentication,
  P_AUTH_RESPONSE: authentication,
  P_STATE_CHG_REQ: stateChange,
  P_PING: nothing,
  P_PING_ACK: nothing,
  P_RECV_ACK: ack,
  P_WRITE_ACK: ack,
  P_RS_WRITE_ACK: ack,
  P_SUPERSEDED: ack,
  P_NEG_ACK: ack,
  P_NEG_DREPLY: ack,
  P_NEG_RS_DREPLY: ack,
  P_BARRIER_ACK: () => fc.record({ barrier: u32, setSize: u32 }),
  P_STATE_CHG_REPLY: stateReply,
  P_OV_REQUEST: request,
  P_OV_REPLY: requestWithDigest,
  P_OV_RESULT: ack,
  P_CSUM_RS_REQUEST: requestWithDigest,
  P_RS_IS_IN_SYNC: ack,
  P_SYNC_PARAM89: syncParam89,
  P_COMPRESSED_BITMAP: () => fc.record({ encoding: u8, payload: bytes(1, 4079) }),
  P_DELAY_PROBE: () => fc.record({ sequence: u32, offsetMicroseconds: u32 }),
  P_OUT_OF_SYNC: range,
  P_RS_CANCEL: ack,
  P_CONN_ST_CHG_REQ: stateChange,
  P_CONN_ST_CHG_REPLY: stateReply,
  P_RETRY_WRITE: ack,
  P_PROTOCOL_UPDATE: protocol,
  P_TRIM: discard,
  P_RS_THIN_REQ: request,
  P_RS_DEALLOCATED: range,
  P_WSAME: (context) =>
    fc.record({
      ...write,
      sizeBytes: multiple512(0, 128 << 20),
      digest: digest(context),
      payload: fc.constantFrom(512, 4096).map((length) => new Uint8Array(length).fill(9)),
    }),
  P_ZEROES: discard,
  P_ORDER: () => fc.record({ order: u32, orderFlags: u32, coordinator: u32, extentsMax: u32, extentBytes: u64 }),
  P_WRITE_NOW: () => fc.record({ ...location, nowFlags: u32 }),
  P_LOCK_EXTENT: () => fc.record({ extent: u64 }),
  P_LOCK_EXTENT_ACK: () => fc.record({ extent: u64, lockFlags: u32, keptUs: u32 }),
  P_IN_DOUBT: blockIds,
  P_APPLIED: blockIds,
  P_BOOT_ID: () => fc.record({ bootId: uuid, instance: uuid }),
  P_INITIAL_META: nothing,
  P_INITIAL_DATA: nothing,
  P_CONNECTION_FEATURES: () => fc.record({ protocolMin: u32, features: u32, protocolMax: u32 }),
}

function withoutUndefined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  const entries = Object.entries(value).filter(([, member]) => member !== undefined)
  return Object.fromEntries(entries) as { [K in keyof T]: Exclude<T[K], undefined> }
}
