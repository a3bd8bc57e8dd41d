// Goal: packets become the bytes of wire-protocol.md and come back from them.
// Method: the vectors of section 11 and layouts written out by hand from section 3; round trips of generated packets; the
// hand-written paths against the table.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { contexts, packetsOf, packetsWithContext, packetTypes } from '../../../test/support/drbd-packets.ts'
import { AssertionFailure } from '../../base/assert.ts'
import { decodeByTable, encodeByTable, encodePacket, type PacketSource, type WireContext } from './codec.ts'
import { Framer } from './framer.ts'
import type { KnownPacket, Packet, PacketOf } from './packets.ts'
import { packetEntry } from './packets.ts'
import { encodeStateWord } from './state-word.ts'

const CONTEXT: WireContext = { apv: 101, features: 15, integrityBytes: 0 }

function encode(packet: Packet, context: WireContext = CONTEXT): Buffer {
  const out: Uint8Array[] = []
  const lengthBytes = encodePacket(packet, context, out)
  const bytes = Buffer.concat(out)
  assert.equal(bytes.length, lengthBytes)
  return bytes
}

function decode(bytes: Uint8Array, context: WireContext = CONTEXT): Packet {
  const framer = new Framer(context)
  framer.push(bytes)
  const packet = framer.next()
  assert.equal(framer.bufferedBytes, 0)
  assert.ok(packet !== undefined)
  return packet
}

/** Both ways: what the packet is written as, and that it is read back from that. */
function check(packet: Packet, hexWithSpaces: string, context: WireContext = CONTEXT): void {
  const hex = hexWithSpaces.replaceAll(/\s/g, '')
  assert.equal(encode(packet, context).toString('hex'), hex)
  assert.deepEqual(decode(Buffer.from(hex, 'hex'), context), packet)
}

const HANDSHAKE: WireContext = { apv: 80, features: 0, integrityBytes: 0 }
const EMPTY = new Uint8Array(0)
const protocolC: PacketOf<'P_PROTOCOL'> = {
  type: 'P_PROTOCOL',
  volume: 0,
  protocol: 3,
  afterSb0p: 0,
  afterSb1p: 0,
  afterSb2p: 0,
  connFlags: 0,
  twoPrimaries: 0,
  integrityAlg: '',
}

test('11: handshake packets', () => {
  check({ type: 'P_INITIAL_DATA', volume: 0 }, '83740267 fff2 0000', HANDSHAKE)
  check({ type: 'P_INITIAL_META', volume: 0 }, '83740267 fff1 0000', HANDSHAKE)
  check(
    { type: 'P_CONNECTION_FEATURES', volume: 0, protocolMin: 86, features: 15, protocolMax: 101 },
    `83740267 fffe 0048 00000056 0000000f 00000065 00000000 ${'00'.repeat(56)}`,
    HANDSHAKE,
  )
})

test('2.4: the packets before the version is agreed are in h80 whatever the context says', () => {
  assert.equal(encode({ type: 'P_INITIAL_DATA', volume: 0 }).toString('hex'), '83740267fff20000')
  assert.equal(encode({ type: 'P_INITIAL_META', volume: 0 }).toString('hex'), '83740267fff10000')
  const features = encode({ type: 'P_CONNECTION_FEATURES', volume: 0, protocolMin: 86, features: 15, protocolMax: 101 })
  assert.equal(features.subarray(0, 8).toString('hex'), '83740267fffe0048')
})

test('11: P_PING, P_PING_ACK, P_PROTOCOL', () => {
  check({ type: 'P_PING', volume: 0 }, '8620ec20 0000 0013 00000000 00000000')
  check({ type: 'P_PING_ACK', volume: 0 }, '8620ec20 0000 0014 00000000 00000000')
  check(
    protocolC,
    `8620ec20 0000 000b 00000019 00000000
     00000003 00000000 00000000 00000000 00000000 00000000 00`,
  )
})

test('11: P_STATE of the first burst, and the reply codes', () => {
  const flags = { susp: false, aftrIsp: false, peerIsp: false, userIsp: false, suspNod: false, suspFen: false }
  const state = encodeStateWord({ role: 2, peer: 0, conn: 8, disk: 8, pdsk: 6, ...flags })
  check({ type: 'P_STATE', volume: 0, state }, '8620ec20 0000 000e 00000004 00000000 0000d082')
  check({ type: 'P_STATE_CHG_REPLY', volume: 0, code: -10 }, '8620ec20 0000 001d 00000004 00000000 fffffff6')
  check({ type: 'P_CONN_ST_CHG_REPLY', volume: 0, code: -1 }, '8620ec20 0000 002b 00000004 00000000 ffffffff')
})

const data = (payload: Uint8Array): PacketOf<'P_DATA'> => ({
  type: 'P_DATA',
  volume: 0,
  sector: 0x1_2345_6789,
  blockIdHi: 0xfedcba98,
  blockIdLo: 0x76543210,
  sequence: 7,
  flags: 0x102,
  digest: EMPTY,
  payload,
})

test('11, 2.4: headers of P_DATA', () => {
  const header = (bytes: number, apv: number, length: number): string =>
    encode(data(new Uint8Array(bytes)), { ...CONTEXT, apv })
      .subarray(0, length)
      .toString('hex')
  assert.equal(header(4096, 101, 16), '8620ec20000000000000101800000000')
  assert.equal(header(131072, 99, 8), '835a000000020018')
  assert.equal(header(4096, 99, 8), '8374026700001018')
  // 3.4: the limit is a payload of 32768 bytes, and below 95 there is h80 only.
  assert.equal(header(32768 - 512, 95, 8), '8374026700007e18')
  assert.equal(header(32768, 95, 8), '835a000000008018')
  assert.equal(header(32768, 94, 8), '8374026700008018')
})

test('3.5: P_DATA with a digest', () => {
  const digest = Uint8Array.of(1, 2, 3, 4)
  const payload = new Uint8Array(512).fill(0xab)
  check(
    { ...data(payload), volume: 3, digest },
    `8620ec20 0003 0000 0000021c 00000000
     0000000123456789 fedcba9876543210 00000007 00000102 01020304 ${'ab'.repeat(512)}`,
    { ...CONTEXT, integrityBytes: 4 },
  )
})

test('3.5: P_TRIM, P_ZEROES and P_WSAME state the size they affect', () => {
  const { payload: _, digest: __, ...head } = data(EMPTY)
  const fixed = '0000000123456789 fedcba9876543210 00000007 00000102 00100000'
  const header = (command: string, length: string): string => `8620ec20 0000 ${command} ${length} 00000000`
  check({ ...head, type: 'P_TRIM', sizeBytes: 1 << 20 }, `${header('0031', '0000001c')} ${fixed}`)
  check({ ...head, type: 'P_ZEROES', sizeBytes: 1 << 20 }, `${header('0036', '0000001c')} ${fixed}`)
  check(
    {
      ...head,
      type: 'P_WSAME',
      sizeBytes: 1 << 20,
      digest: Uint8Array.of(5, 6),
      payload: new Uint8Array(512).fill(0xcd),
    },
    `${header('0034', '0000021e')} ${fixed} 0506 ${'cd'.repeat(512)}`,
    { ...CONTEXT, integrityBytes: 2 },
  )
})

test('3.7, 3.8: requests and acks', () => {
  const location = { volume: 1, sector: 0x28, blockIdHi: 0xffffffff, blockIdLo: 0xffffffff }
  const fixed = '0000000000000028 ffffffffffffffff 00001000'
  check(
    { type: 'P_RS_DATA_REQUEST', ...location, sizeBytes: 4096 },
    `8620ec20 0001 0009 00000018 00000000 ${fixed} 00000000`,
  )
  check(
    { type: 'P_OV_REPLY', ...location, sizeBytes: 4096, pad: 0xdeadbeef, digest: Uint8Array.of(9, 8, 7) },
    `8620ec20 0001 001f 0000001b 00000000 ${fixed} deadbeef 090807`,
  )
  check(
    { type: 'P_WRITE_ACK', ...location, sizeBytes: 4096, sequence: 0x01020304 },
    `8620ec20 0001 0016 00000018 00000000 ${fixed} 01020304`,
  )
})

test('3.9, 3.10, 3.19: barriers, ranges, delay probe', () => {
  check({ type: 'P_BARRIER', volume: 0, barrier: 0x01000000 }, '8620ec20 0000 0003 00000008 00000000 01000000 00000000')
  check(
    { type: 'P_BARRIER_ACK', volume: 0, barrier: 0x01000000, setSize: 3 },
    '8620ec20 0000 001c 00000008 00000000 01000000 00000003',
  )
  check(
    { type: 'P_OUT_OF_SYNC', volume: 0, sector: 8, sizeBytes: 512, pad: 5 },
    '8620ec20 0000 0028 00000010 00000000 0000000000000008 00000200 00000005',
  )
  check(
    { type: 'P_DELAY_PROBE', volume: 0, sequence: 1, offsetMicroseconds: 2 },
    '8620ec20 0000 0027 00000008 00000000 00000001 00000002',
  )
})

test('3.12: P_PROTOCOL has no string below version 87', () => {
  const words = '00000003 00000000 00000000 00000000 00000000 00000000'
  check(protocolC, `83740267 000b 0018 ${words}`, { ...CONTEXT, apv: 86 })
  check({ ...protocolC, integrityAlg: 'sha1' }, `83740267 000b 001d ${words} 7368613100`, { ...CONTEXT, apv: 87 })
})

test('3.13: sync parameters of each version', () => {
  const name = (text: string): string => Buffer.from(text).toString('hex').padEnd(128, '0')
  const common = { volume: 0, resyncRateKib: 250, verifyAlg: 'md5', csumsAlg: 'sha1' }
  const controller = { cPlanAhead: 20, cDelayTarget: 10, cFillTarget: 100, cMaxRateKib: 102400 }
  const at = (apv: number): WireContext => ({ ...CONTEXT, apv })
  check({ type: 'P_SYNC_PARAM', volume: 0, resyncRateKib: 250, verifyAlg: '' }, '83740267 000a 0004 000000fa', at(87))
  check(
    { type: 'P_SYNC_PARAM', volume: 0, resyncRateKib: 250, verifyAlg: 'md5' },
    '83740267 000a 0008 000000fa 6d643500',
    at(88),
  )
  check({ type: 'P_SYNC_PARAM89', ...common }, `83740267 0023 0084 000000fa ${name('md5')} ${name('sha1')}`, at(94))
  check(
    { type: 'P_SYNC_PARAM89', ...common, ...controller },
    `83740267 0023 0094 000000fa ${name('md5')} ${name('sha1')} 00000014 0000000a 00000064 00019000`,
    at(95),
  )
})

test('3.14: P_SIZES with and without queue limits', () => {
  const sizes: PacketOf<'P_SIZES'> = {
    type: 'P_SIZES',
    volume: 0,
    backingSectors: 0xfb0,
    userSectors: 0,
    currentSectors: 0xfb0,
    maxBioBytes: 1 << 20,
    queueOrderType: 0,
    ddsFlags: 2,
  }
  const fixed = '0000000000000fb0 0000000000000000 0000000000000fb0 00100000 0000 0002'
  check(sizes, `8620ec20 0000 000d 00000020 00000000 ${fixed}`, { ...CONTEXT, features: 0 })
  const limits = {
    physicalBlockBytes: 4096,
    logicalBlockBytes: 512,
    alignmentOffset: 0,
    ioMin: 512,
    ioOpt: 1,
    discardEnabled: true,
    discardZeroesData: false,
    writeSameCapable: true,
  }
  check(
    { ...sizes, limits },
    `8620ec20 0000 000d 00000038 00000000 ${fixed} 00001000 00000200 00000000 00000200 00000001 01 00 01 00`,
  )
})

test('3.15: UUIDs', () => {
  check(
    {
      type: 'P_UUIDS',
      volume: 2,
      current: 0xfedcba9876543211n,
      bitmap: 4n,
      history1: 0n,
      history2: 1n,
      dirtyBits: 502,
      uuidFlags: 8,
    },
    `8620ec20 0002 000c 00000030 00000000 fedcba9876543211 0000000000000004 0000000000000000 0000000000000001
     00000000000001f6 0000000000000008`,
  )
  check(
    { type: 'P_SYNC_UUID', volume: 0, uuid: 0x1000000000004n },
    '8620ec20 0000 000f 00000008 00000000 0001000000000004',
  )
})

test('the payload goes out by reference, behind one buffer with all the rest', () => {
  const payload = new Uint8Array(4096)
  const out: Uint8Array[] = []
  encodePacket({ ...data(payload), digest: new Uint8Array(20) }, { ...CONTEXT, integrityBytes: 20 }, out)
  assert.equal(out.length, 2)
  assert.equal(out[0]?.length, 16 + 24 + 20)
  assert.equal(out[1], payload)
  const bitmap = new Uint8Array(4080)
  encodePacket({ type: 'P_BITMAP', volume: 0, payload: bitmap }, CONTEXT, out)
  assert.equal(out[3], bitmap)
  encodePacket({ type: 'P_BITMAP', volume: 0, payload: EMPTY }, CONTEXT, out)
  assert.equal(out.length, 5, 'an empty payload is no buffer')
})

test('what was encoded stays as it is while more is encoded', () => {
  const packet = { ...data(EMPTY), sequence: 1 }
  const out: Uint8Array[] = []
  const copies: string[] = []
  for (let sequence = 0; sequence < 5000; sequence++) {
    encodePacket({ ...packet, sequence }, CONTEXT, out)
    copies.push(Buffer.from(out[sequence] as Uint8Array).toString('hex'))
  }
  assert.equal(new Set(copies).size, 5000)
  assert.deepEqual(
    out.map((bytes) => Buffer.from(bytes).toString('hex')),
    copies,
  )
})

test('every packet comes back as it went, under every context', () => {
  for (const type of packetTypes) {
    const cases = contexts.chain((context) => packetsOf(type, context).map((packet) => ({ packet, context })))
    fc.assert(
      fc.property(cases, ({ packet, context }) => {
        const framed = context.apv >= 100 && packetEntry(type).handshake ? HANDSHAKE : context
        assert.deepEqual(decode(encode(packet, context), framed), packet)
      }),
      { numRuns: 40 },
    )
  }
})

test('the hand-written paths write and read what the table does', () => {
  const fast = packetTypes.filter((type) => packetEntry(type).fastLayout !== undefined)
  assert.equal(fast.length, 14)
  for (const type of fast) {
    const cases = contexts.chain((context) => packetsOf(type, context).map((packet) => ({ packet, context })))
    fc.assert(
      fc.property(cases, ({ packet, context }) => {
        const byTable: Uint8Array[] = []
        encodeByTable(packet, context, byTable)
        const bytes = Buffer.concat(byTable)
        assert.deepEqual(encode(packet, context), bytes)
        assert.deepEqual(decode(bytes, context), packet)
        assert.deepEqual(decodeByTable(packetEntry(type), sourceOf(bytes, packet, context), context), packet)
      }),
      { numRuns: 60 },
    )
  }
})

test('both paths refuse a sector above 2^53 - 1 with the same error', () => {
  const message = 'P_WRITE_ACK.sector: 9007199254740992 is above 2^53 - 1'
  const ack: PacketOf<'P_WRITE_ACK'> = {
    type: 'P_WRITE_ACK',
    volume: 0,
    sector: 0,
    blockIdHi: 0,
    blockIdLo: 0,
    sizeBytes: 512,
    sequence: 1,
  }
  const bytes = encode(ack)
  bytes.writeUInt32BE(0x0020_0000, 16)
  assert.throws(() => decode(bytes), { code: 'E_BAD_FIELD', message })
  assert.throws(() => decodeByTable(packetEntry('P_WRITE_ACK'), sourceOf(bytes, ack, CONTEXT), CONTEXT), {
    code: 'E_BAD_FIELD',
    message,
  })
})

test('a packet of our own that breaks the protocol is an assertion', () => {
  const write = data(new Uint8Array(512))
  const broken: (readonly [Packet, WireContext])[] = [
    [{ type: 'unknown', volume: 0, command: 5, lengthBytes: 0 }, CONTEXT],
    [{ ...write, sector: 2 ** 53 }, CONTEXT],
    [{ ...write, sector: -1 }, CONTEXT],
    [{ ...write, payload: new Uint8Array(511) }, CONTEXT],
    [{ ...write, payload: new Uint8Array((1 << 20) + 512) }, CONTEXT],
    [
      { ...write, payload: new Uint8Array(32768 + 512) },
      { ...CONTEXT, apv: 94 },
    ],
    [{ ...write, digest: new Uint8Array(4) }, CONTEXT],
    [
      { ...write, volume: 1 },
      { ...CONTEXT, apv: 99 },
    ],
    [{ ...write, volume: 65536 }, CONTEXT],
    [{ ...protocolC, integrityAlg: 'x'.repeat(64) }, CONTEXT],
    [{ ...protocolC, integrityAlg: 'a\0b' }, CONTEXT],
    [{ ...protocolC, protocol: 2 ** 32 }, CONTEXT],
    [{ ...protocolC, protocol: 1.5 }, CONTEXT],
    [{ type: 'P_BITMAP', volume: 0, payload: new Uint8Array(4088) }, CONTEXT],
    [{ type: 'P_BITMAP', volume: 0, payload: new Uint8Array(7) }, CONTEXT],
    [{ type: 'P_STATE_CHG_REPLY', volume: 0, code: 2 ** 31 }, CONTEXT],
    [{ type: 'P_SYNC_UUID', volume: 0, uuid: 1n << 64n }, CONTEXT],
    [{ type: 'P_SYNC_PARAM89', volume: 0, resyncRateKib: 1, verifyAlg: '', csumsAlg: '' }, CONTEXT],
    [
      { type: 'P_SYNC_PARAM89', volume: 0, resyncRateKib: 1, verifyAlg: 'x'.repeat(64), csumsAlg: '' },
      { ...CONTEXT, apv: 94 },
    ],
    [{ type: 'P_OUT_OF_SYNC', volume: 0, sector: 0, sizeBytes: 100 }, CONTEXT],
  ]
  for (const [packet, context] of broken) {
    assert.throws(
      () => encode(packet, context),
      AssertionFailure,
      JSON.stringify(packet, (_, value) => String(value)).slice(0, 80),
    )
  }
})

test('packets are appended to what is there, and their bytes are counted right', () => {
  fc.assert(
    fc.property(packetsWithContext, ({ packet, context }) => {
      const out: Uint8Array[] = [Uint8Array.of(1)]
      const lengthBytes = encodePacket(packet, context, out)
      assert.equal(Buffer.concat(out).length, lengthBytes + 1)
      assert.ok(out.length <= 3)
    }),
    { numRuns: 300 },
  )
})

function sourceOf(bytes: Uint8Array, packet: KnownPacket, context: WireContext): PacketSource {
  const headerBytes = context.apv >= 100 ? 16 : 8
  return {
    volume: packet.volume,
    lengthBytes: bytes.length - headerBytes,
    fixedView: new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    fixedAt: headerBytes,
    bodyBytes: (offset, length) => new Uint8Array(bytes.subarray(headerBytes + offset, headerBytes + offset + length)),
    payload: (offset) => new Uint8Array(bytes.subarray(headerBytes + offset)),
  }
}
