// Goal: the superblock is read and written at the right offsets, and each plausibility check of an attach refuses what it
// must, with DRBD's number, in the kernel's order. Method: the example bytes of the specification (section 2.3), round
// trips, one changed field for each check, random bytes.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Prng } from '../base/prng.ts'
import { GIB, MIB } from '../base/units.ts'
import { MetadataError, MetadataInvalidError, MetadataMagicError } from './errors.ts'
import { DEFAULT_AL_GEOMETRY, flexibleExternalLayout, indexedLayout, internalLayout } from './layout.ts'
import {
  alGeometryOf,
  decodeSuperblock,
  diskStateFromFlags,
  encodeSuperblock,
  isClean,
  MD_MAGIC_CLEAN,
  MD_MAGIC_UNCLEAN,
  MD_MAGIC_V07,
  MD_MAGIC_V09,
  MDF_AL_CLEAN,
  MDF_CONSISTENT,
  MDF_PEER_OUTDATED,
  MDF_WAS_UPTODATE,
  type Superblock,
  type VerifyContext,
  verifySuperblock,
} from './superblock.ts'

const EXAMPLE: Superblock = {
  laSizeSectors: 130992,
  current: 0xa1b2c3d4e5f60718n,
  bitmap: 0x1020304050607080n,
  history1: 0x0102030405060708n,
  history2: 0x1112131415161718n,
  deviceUuid: 0xdeadbeef01020304n,
  flags: 0x95,
  magic: MD_MAGIC_CLEAN,
  mdSizeSectors: 80,
  alOffset: -64,
  alExtents: 257,
  bmOffset: -72,
  bytesPerBit: 4096,
  peerMaxBioBytes: 1048576,
  alStripes: 1,
  alStripeSize4k: 8,
}

const EXAMPLE_BYTES = `
  00 00 00 00 00 01 ff b0  a1 b2 c3 d4 e5 f6 07 18
  10 20 30 40 50 60 70 80  01 02 03 04 05 06 07 08
  11 12 13 14 15 16 17 18  de ad be ef 01 02 03 04
  00 00 00 00 00 00 00 00  00 00 00 95 83 74 02 6b
  00 00 00 50 ff ff ff c0  00 00 01 01 ff ff ff b8
  00 00 10 00 00 10 00 00  00 00 00 01 00 00 00 08`

function bytesOfHex(text: string): Uint8Array {
  return Uint8Array.from(text.trim().split(/\s+/), (byte) => Number.parseInt(byte, 16))
}

test('the example of the specification, byte for byte', () => {
  const bytes = encodeSuperblock(EXAMPLE)
  assert.equal(bytes.length, 4096)
  assert.deepEqual(bytes.subarray(0, 96), bytesOfHex(EXAMPLE_BYTES))
  assert.ok(bytes.subarray(96).every((byte) => byte === 0))
  assert.deepEqual(decodeSuperblock(bytes), EXAMPLE)
})

test('every field survives a round trip, also from the middle of a larger buffer', () => {
  const u32 = fc.integer({ min: 0, max: 0xffff_ffff })
  const s32 = fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff })
  const u64 = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn })
  const superblocks = fc.record({
    laSizeSectors: fc.maxSafeNat(),
    current: u64,
    bitmap: u64,
    history1: u64,
    history2: u64,
    deviceUuid: u64,
    flags: u32,
    magic: fc.constantFrom(MD_MAGIC_CLEAN, MD_MAGIC_UNCLEAN),
    mdSizeSectors: u32,
    alOffset: s32,
    alExtents: u32,
    bmOffset: s32,
    bytesPerBit: u32,
    peerMaxBioBytes: u32,
    alStripes: u32,
    alStripeSize4k: u32,
  })
  fc.assert(
    fc.property(superblocks, (superblock) => {
      const buffer = new Uint8Array(4096 * 3).fill(0xee)
      buffer.set(encodeSuperblock(superblock), 100)
      assert.deepEqual(decodeSuperblock(buffer.subarray(100, 4196)), { ...superblock })
    }),
  )
})

test('reserved bytes are ignored when read', () => {
  const bytes = encodeSuperblock(EXAMPLE)
  bytes.fill(0xff, 48, 56)
  bytes.fill(0xff, 96)
  assert.deepEqual(decodeSuperblock(bytes), EXAMPLE)
})

test('other formats and no format have their own errors', () => {
  const withMagic = (magic: number): Uint8Array => {
    const bytes = encodeSuperblock(EXAMPLE)
    new DataView(bytes.buffer).setUint32(60, magic)
    return bytes
  }
  const found: [number, string][] = [
    [MD_MAGIC_V07, 'v07'],
    [MD_MAGIC_V09, 'v09'],
    [0, 'nothing'],
    [0xffffffff, 'nothing'],
  ]
  for (const [magic, name] of found) {
    assert.throws(
      () => decodeSuperblock(withMagic(magic)),
      (error: unknown) => {
        assert.ok(error instanceof MetadataMagicError)
        assert.deepEqual(error.details, { drbdCode: 119, magic, found: name })
        return true
      },
    )
  }
})

test('a size that no number can hold is an error, not a rounded size', () => {
  const bytes = encodeSuperblock(EXAMPLE)
  new DataView(bytes.buffer).setBigUint64(0, 2n ** 53n)
  assert.throws(() => decodeSuperblock(bytes), MetadataInvalidError)
})

test('random and damaged superblocks throw typed errors or decode', () => {
  const prng = new Prng(5)
  let refused = 0
  for (let i = 0; i < 2000; i++) {
    const bytes = encodeSuperblock(EXAMPLE)
    for (let changes = prng.intInclusive(1, 6); changes > 0; changes--)
      bytes[prng.intInclusive(0, 95)] = prng.u32() & 0xff
    try {
      const superblock = decodeSuperblock(bytes)
      assert.deepEqual(encodeSuperblock(superblock).subarray(0, 48), bytes.subarray(0, 48))
      verifySuperblock(superblock, INTERNAL)
    } catch (error) {
      if (!(error instanceof MetadataError)) throw error
      refused++
    }
  }
  assert.ok(refused > 1000 && refused < 2000, `${refused} refused`)
})

test('clean is the clean magic and the flag', () => {
  assert.equal(isClean({ magic: MD_MAGIC_CLEAN, flags: MDF_AL_CLEAN | 3 }), true)
  assert.equal(isClean({ magic: MD_MAGIC_CLEAN, flags: 0x17f & ~MDF_AL_CLEAN }), false)
  assert.equal(isClean({ magic: MD_MAGIC_UNCLEAN, flags: MDF_AL_CLEAN }), false)
})

test('disk state from the flags: all four rows of the table', () => {
  const c = MDF_CONSISTENT
  const w = MDF_WAS_UPTODATE
  const p = MDF_PEER_OUTDATED
  for (const flags of [0, w, p, w | p]) assert.equal(diskStateFromFlags(flags), 'Inconsistent')
  for (const flags of [c, c | p]) assert.equal(diskStateFromFlags(flags), 'Outdated')
  assert.equal(diskStateFromFlags(c | w), 'Consistent')
  assert.equal(diskStateFromFlags(c | w | p), 'UpToDate')
  // Seen on a kernel: Primary connected, Primary alone, just created beside an Inconsistent peer.
  assert.equal(diskStateFromFlags(0x17), 'Consistent')
  assert.equal(diskStateFromFlags(0x13), 'Consistent')
  assert.equal(diskStateFromFlags(0x24), 'Inconsistent')
})

test('stripe fields of 0 and 0 mean 1 and 8', () => {
  assert.deepEqual(alGeometryOf({ alStripes: 0, alStripeSize4k: 0 }), DEFAULT_AL_GEOMETRY)
  assert.deepEqual(alGeometryOf({ alStripes: 4, alStripeSize4k: 16 }), { stripes: 4, stripeSize4k: 16 })
  verifySuperblock({ ...EXAMPLE, alStripes: 0, alStripeSize4k: 0 }, INTERNAL)
})

// ---- plausibility ---------------------------------------------------------------------------------------------------

const INTERNAL: VerifyContext = { layout: internalLayout(64 * MIB, DEFAULT_AL_GEOMETRY), deviceBytes: 64 * MIB }
const FLEXIBLE: VerifyContext = {
  layout: flexibleExternalLayout(2 * MIB, DEFAULT_AL_GEOMETRY),
  deviceBytes: 2 * MIB,
  usableSectors: 130992,
}
const FLEXIBLE_SUPERBLOCK: Superblock = { ...EXAMPLE, mdSizeSectors: 4096, alOffset: 8, bmOffset: 72 }
const INDEXED: VerifyContext = { layout: indexedLayout(1), deviceBytes: 256 * MIB, usableSectors: 130992 }
const INDEXED_SUPERBLOCK: Superblock = { ...EXAMPLE, mdSizeSectors: 262144, alOffset: 8, bmOffset: 72 }

function refuses(superblock: Superblock, context: VerifyContext, drbdCode: number, field?: string): void {
  assert.throws(
    () => verifySuperblock(superblock, context),
    (error: unknown) => {
      assert.ok(error instanceof MetadataError, String(error))
      assert.equal(error.details.drbdCode, drbdCode)
      if (field !== undefined) {
        assert.ok(error instanceof MetadataInvalidError)
        assert.equal(error.details.field, field)
      }
      return true
    },
  )
}

test('good superblocks pass', () => {
  verifySuperblock(EXAMPLE, INTERNAL)
  verifySuperblock(FLEXIBLE_SUPERBLOCK, FLEXIBLE)
  verifySuperblock(INDEXED_SUPERBLOCK, INDEXED)
  verifySuperblock({ ...EXAMPLE, laSizeSectors: 0 }, INTERNAL)
  verifySuperblock({ ...EXAMPLE, laSizeSectors: 130192 }, INTERNAL)
})

test('6: unclean is 165, before anything else, unless left out', () => {
  refuses({ ...EXAMPLE, magic: MD_MAGIC_UNCLEAN }, INTERNAL, 165)
  refuses({ ...EXAMPLE, flags: 0x15 }, INTERNAL, 165)
  refuses({ ...EXAMPLE, flags: 0x15, bytesPerBit: 1024, bmOffset: 0 }, INTERNAL, 165)
  verifySuperblock({ ...EXAMPLE, magic: MD_MAGIC_UNCLEAN, flags: 0x13 }, { ...INTERNAL, allowUnclean: true })
})

test('8: a bit stands for 4096 bytes', () => {
  for (const bytesPerBit of [0, 512, 8192, 0xffffffff]) {
    refuses({ ...EXAMPLE, bytesPerBit }, INTERNAL, 119, 'bm_bytes_per_bit')
  }
})

test('9: stripes', () => {
  for (const [alStripes, alStripeSize4k] of [
    [0, 8],
    [1, 0],
    [1, 7],
    [4097, 1024],
    [0xffffffff, 0xffffffff],
  ] as const) {
    refuses({ ...EXAMPLE, alStripes, alStripeSize4k }, INTERNAL, 119, 'al_stripes')
  }
})

test('10: offsets that a kernel refused', () => {
  refuses({ ...EXAMPLE, alStripes: 2 }, INTERNAL, 119, 'al_offset')
  refuses({ ...EXAMPLE, alOffset: -72, bmOffset: -80 }, INTERNAL, 119, 'al_offset')
  refuses({ ...EXAMPLE, alOffset: -56 }, INTERNAL, 119, 'al_offset')
  refuses({ ...EXAMPLE, mdSizeSectors: 88 }, INTERNAL, 119, 'md_size_sect')
  const big: VerifyContext = { layout: internalLayout(284 * MIB, DEFAULT_AL_GEOMETRY), deviceBytes: 284 * MIB }
  const s = { ...EXAMPLE, mdSizeSectors: 96, bmOffset: -88, laSizeSectors: big.layout.usableSectors }
  verifySuperblock(s, big)
  refuses({ ...s, bmOffset: -72 }, big, 119, 'bm_offset')
})

test('10: offsets without sense', () => {
  refuses({ ...EXAMPLE, bmOffset: -56 }, INTERNAL, 119, 'bm_offset')
  assert.throws(() => verifySuperblock({ ...EXAMPLE, bmOffset: -56 }, INTERNAL), /behind the activity log/)
  refuses({ ...EXAMPLE, bmOffset: -73 }, INTERNAL, 119, 'bm_offset')
  assert.throws(() => verifySuperblock({ ...EXAMPLE, bmOffset: -73 }, INTERNAL), /not a multiple of 4 KiB/)
  refuses({ ...EXAMPLE, bmOffset: -80, mdSizeSectors: 88 }, INTERNAL, 119, 'bm_offset') // more room: not where we read
  refuses({ ...EXAMPLE, alOffset: 0 }, INTERNAL, 119, 'al_offset')
  refuses({ ...FLEXIBLE_SUPERBLOCK, alOffset: 16, bmOffset: 80 }, FLEXIBLE, 119, 'al_offset')
  refuses({ ...FLEXIBLE_SUPERBLOCK, bmOffset: 64 }, FLEXIBLE, 119, 'bm_offset')
  refuses({ ...FLEXIBLE_SUPERBLOCK, bmOffset: 80 }, FLEXIBLE, 119, 'bm_offset')
  refuses({ ...FLEXIBLE_SUPERBLOCK, mdSizeSectors: 72, laSizeSectors: 40000 }, FLEXIBLE, 119, 'bm_offset')
  refuses({ ...FLEXIBLE_SUPERBLOCK, mdSizeSectors: 4097 }, FLEXIBLE, 119, 'md_size_sect')
  refuses({ ...INDEXED_SUPERBLOCK, mdSizeSectors: 262136 }, INDEXED, 119, 'md_size_sect')
})

test('10: metadata of another placement', () => {
  refuses(EXAMPLE, FLEXIBLE, 119, 'al_offset')
  refuses(FLEXIBLE_SUPERBLOCK, INTERNAL, 119, 'al_offset')
  refuses(FLEXIBLE_SUPERBLOCK, INDEXED, 119, 'md_size_sect')
  // One slot is a part of a flexible device: here only the size that was written tells, and it may be too small.
  verifySuperblock(INDEXED_SUPERBLOCK, {
    ...FLEXIBLE,
    layout: flexibleExternalLayout(GIB, DEFAULT_AL_GEOMETRY),
    deviceBytes: GIB,
  })
})

test('10: the device must reach as far as the metadata says', () => {
  refuses(FLEXIBLE_SUPERBLOCK, { ...FLEXIBLE, deviceBytes: MIB }, 119, 'md_size_sect')
  refuses(INDEXED_SUPERBLOCK, { ...INDEXED, layout: indexedLayout(0), deviceBytes: MIB }, 119, 'md_size_sect')
})

test('11: the configured size must fit', () => {
  verifySuperblock(EXAMPLE, { ...INTERNAL, configuredSectors: 130992 })
  refuses(EXAMPLE, { ...INTERNAL, configuredSectors: 130993 }, 111)
})

test('12: the smallest metadata devices of the kernel', () => {
  const small = (deviceBytes: number): VerifyContext => ({
    layout: internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY),
    deviceBytes,
  })
  verifySuperblock({ ...EXAMPLE, laSizeSectors: 0 }, small(MIB))
  refuses({ ...EXAMPLE, laSizeSectors: 0 }, small(MIB - 512), 112)
  refuses(INDEXED_SUPERBLOCK, { ...INDEXED, deviceBytes: 256 * MIB - 512 }, 112)
  refuses(INDEXED_SUPERBLOCK, { ...INDEXED, layout: indexedLayout(7) }, 112)
})

test('16: consistent data is not cut, unless asked for', () => {
  refuses({ ...EXAMPLE, laSizeSectors: 130993 }, INTERNAL, 170)
  refuses(FLEXIBLE_SUPERBLOCK, { ...FLEXIBLE, usableSectors: 130991 }, 170)
  verifySuperblock({ ...EXAMPLE, laSizeSectors: 130993, flags: 0x80 }, INTERNAL)
  verifySuperblock(FLEXIBLE_SUPERBLOCK, { ...FLEXIBLE, usableSectors: 130991, configuredSectors: 130000 })
})
