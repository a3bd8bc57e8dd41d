// Goal: the table says what wire-protocol.md 3.1 says.
// Method: the master table of that section, written down once more by hand, compared with every entry.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { lengthBounds } from './packet.ts'
import { PACKETS, type PacketOf, type PacketType, packetEntry, packetEntryOf } from './packets.ts'

const PLAIN_101 = { apv: 101, features: 15, integrityBytes: 0 }

// command, name, socket, shortest and longest payload at version 101 with all features and no integrity digest
const MIB = 1 << 20
const MASTER_TABLE: readonly (readonly [number, PacketType, string, number, number])[] = [
  [0x00, 'P_DATA', 'data', 24, 24 + MIB],
  [0x01, 'P_DATA_REPLY', 'data', 24, 24 + MIB],
  [0x02, 'P_RS_DATA_REPLY', 'data', 24, 24 + MIB],
  [0x03, 'P_BARRIER', 'data', 8, 8],
  [0x04, 'P_BITMAP', 'data', 0, 4080],
  [0x07, 'P_UNPLUG_REMOTE', 'data', 0, 0],
  [0x08, 'P_DATA_REQUEST', 'data', 24, 24],
  [0x09, 'P_RS_DATA_REQUEST', 'data', 24, 24],
  [0x0a, 'P_SYNC_PARAM', 'data', 5, 68],
  [0x0b, 'P_PROTOCOL', 'data', 25, 88],
  [0x0c, 'P_UUIDS', 'data', 48, 48],
  [0x0d, 'P_SIZES', 'data', 56, 56],
  [0x0e, 'P_STATE', 'data', 4, 4],
  [0x0f, 'P_SYNC_UUID', 'data', 8, 8],
  [0x10, 'P_AUTH_CHALLENGE', 'data', 0, 128],
  [0x11, 'P_AUTH_RESPONSE', 'data', 0, 128],
  [0x12, 'P_STATE_CHG_REQ', 'data', 8, 8],
  [0x13, 'P_PING', 'meta', 0, 0],
  [0x14, 'P_PING_ACK', 'meta', 0, 0],
  [0x15, 'P_RECV_ACK', 'meta', 24, 24],
  [0x16, 'P_WRITE_ACK', 'meta', 24, 24],
  [0x17, 'P_RS_WRITE_ACK', 'meta', 24, 24],
  [0x18, 'P_SUPERSEDED', 'meta', 24, 24],
  [0x19, 'P_NEG_ACK', 'meta', 24, 24],
  [0x1a, 'P_NEG_DREPLY', 'meta', 24, 24],
  [0x1b, 'P_NEG_RS_DREPLY', 'meta', 24, 24],
  [0x1c, 'P_BARRIER_ACK', 'meta', 8, 8],
  [0x1d, 'P_STATE_CHG_REPLY', 'meta', 4, 4],
  [0x1e, 'P_OV_REQUEST', 'data', 24, 24],
  [0x1f, 'P_OV_REPLY', 'data', 24, 24 + 64],
  [0x20, 'P_OV_RESULT', 'meta', 24, 24],
  [0x21, 'P_CSUM_RS_REQUEST', 'data', 24, 24 + 64],
  [0x22, 'P_RS_IS_IN_SYNC', 'meta', 24, 24],
  [0x23, 'P_SYNC_PARAM89', 'data', 148, 148],
  [0x24, 'P_COMPRESSED_BITMAP', 'data', 2, 4080],
  [0x27, 'P_DELAY_PROBE', 'both', 8, 8],
  [0x28, 'P_OUT_OF_SYNC', 'data', 16, 16],
  [0x29, 'P_RS_CANCEL', 'meta', 24, 24],
  [0x2a, 'P_CONN_ST_CHG_REQ', 'data', 8, 8],
  [0x2b, 'P_CONN_ST_CHG_REPLY', 'meta', 4, 4],
  [0x2c, 'P_RETRY_WRITE', 'meta', 24, 24],
  [0x2d, 'P_PROTOCOL_UPDATE', 'data', 25, 88],
  [0x31, 'P_TRIM', 'data', 28, 28],
  [0x32, 'P_RS_THIN_REQ', 'data', 24, 24],
  [0x33, 'P_RS_DEALLOCATED', 'data', 16, 16],
  [0x34, 'P_WSAME', 'data', 28 + 512, 28 + 65536],
  [0x36, 'P_ZEROES', 'data', 28, 28],
  [0x200, 'P_ORDER', 'data', 24, 24],
  [0x201, 'P_WRITE_NOW', 'data', 24, 24],
  [0x202, 'P_LOCK_EXTENT', 'data', 8, 8],
  [0x203, 'P_LOCK_EXTENT_ACK', 'data', 16, 16],
  [0x204, 'P_IN_DOUBT', 'data', 0, 1 << 20],
  [0x205, 'P_APPLIED', 'data', 0, 1 << 20],
  [0x206, 'P_BOOT_ID', 'data', 16, 16],
  [0xfff1, 'P_INITIAL_META', 'meta', 0, 0],
  [0xfff2, 'P_INITIAL_DATA', 'data', 0, 0],
  [0xfffe, 'P_CONNECTION_FEATURES', 'data', 72, 72],
]

test('3.1 and ours: command, name, socket and lengths of every packet', () => {
  const table = PACKETS.map((entry) => {
    const { lengthBytesMin, lengthBytesMax } = lengthBounds(entry, PLAIN_101)
    return [entry.command, entry.type, entry.socket, lengthBytesMin, lengthBytesMax]
  })
  assert.deepEqual(table, MASTER_TABLE)
})

test('3.1: reserved numbers belong to no packet', () => {
  for (const command of [0x05, 0x06, 0x25, 0x26, 0x2e, 0x2f, 0x30, 0x35, 0x37, 0x40, 0x48, 0xfff0, 0xffff]) {
    assert.equal(packetEntryOf(command), undefined, `0x${command.toString(16)}`)
  }
})

test('an entry is found by type and by command', () => {
  for (const entry of PACKETS) {
    assert.equal(packetEntry(entry.type), entry)
    assert.equal(packetEntryOf(entry.command), entry)
  }
})

const range = (type: PacketType, context: Partial<typeof PLAIN_101>): readonly [number, number] => {
  const { lengthBytesMin, lengthBytesMax } = lengthBounds(packetEntry(type), { ...PLAIN_101, ...context })
  return [lengthBytesMin, lengthBytesMax]
}

test('2.5: the largest write depends on the version, and the digest comes on top', () => {
  assert.deepEqual(range('P_DATA', { apv: 94 }), [24, 24 + 32768])
  assert.deepEqual(range('P_DATA', { apv: 95 }), [24, 24 + 131072])
  assert.deepEqual(range('P_RS_DATA_REPLY', { apv: 99 }), [24, 24 + 131072])
  assert.deepEqual(range('P_DATA_REPLY', { apv: 100, integrityBytes: 20 }), [44, 44 + MIB])
  assert.deepEqual(range('P_WSAME', { integrityBytes: 4 }), [32 + 512, 32 + 65536])
  assert.deepEqual(range('P_TRIM', { integrityBytes: 20 }), [28, 28])
  assert.deepEqual(range('P_ZEROES', { integrityBytes: 20 }), [28, 28])
})

test('3.12, 3.13: strings and controller fields came with later versions', () => {
  assert.deepEqual(range('P_PROTOCOL', { apv: 86 }), [24, 24])
  assert.deepEqual(range('P_PROTOCOL', { apv: 87 }), [25, 88])
  assert.deepEqual(range('P_SYNC_PARAM', { apv: 87 }), [4, 4])
  assert.deepEqual(range('P_SYNC_PARAM', { apv: 88 }), [5, 68])
  assert.deepEqual(range('P_SYNC_PARAM89', { apv: 94 }), [132, 132])
  assert.deepEqual(range('P_SYNC_PARAM89', { apv: 95 }), [148, 148])
})

test('3.14: P_SIZES carries the queue limits with FF_WSAME only', () => {
  assert.deepEqual(range('P_SIZES', { features: 15 & ~4 }), [32, 32])
  assert.deepEqual(range('P_SIZES', { features: 4 }), [56, 56])
})

test('3.17, 3.18: bitmap packets fill a page with their header', () => {
  assert.deepEqual(range('P_BITMAP', { apv: 99 }), [0, 4088])
  assert.deepEqual(range('P_COMPRESSED_BITMAP', { apv: 99 }), [2, 4088])
})

test('the types of the packets follow from the table', () => {
  type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
  const same: [
    Equal<PacketOf<'P_PING'>, { readonly type: 'P_PING'; readonly volume: number }>,
    Equal<PacketOf<'P_BARRIER'>, { readonly type: 'P_BARRIER'; readonly volume: number; readonly barrier: number }>,
    Equal<
      PacketOf<'P_WRITE_ACK'>,
      {
        readonly type: 'P_WRITE_ACK'
        readonly volume: number
        readonly sector: number
        readonly blockIdHi: number
        readonly blockIdLo: number
        readonly sizeBytes: number
        readonly sequence: number
      }
    >,
    Equal<
      PacketOf<'P_OUT_OF_SYNC'>,
      {
        readonly type: 'P_OUT_OF_SYNC'
        readonly volume: number
        readonly sector: number
        readonly sizeBytes: number
        readonly pad?: number
      }
    >,
    Equal<PacketOf<'P_SYNC_UUID'>['uuid'], bigint>,
    Equal<PacketOf<'P_DATA'>['digest' | 'payload'], Uint8Array>,
    Equal<PacketOf<'P_PROTOCOL'>['integrityAlg'], string>,
    Equal<PacketOf<'P_SYNC_PARAM89'>['cPlanAhead'], number | undefined>,
    Equal<keyof NonNullable<PacketOf<'P_SIZES'>['limits']> & 'pad', never>,
  ] = [true, true, true, true, true, true, true, true, true] // what is checked here is that it compiles
  assert.equal(same.length, 9)
})
