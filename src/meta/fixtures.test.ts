// Goal: what drbdmeta and a running kernel wrote is read, verified, dumped and replayed exactly as they mean it.
// Method: the real bytes in test/golden: 18 areas made with drbdmeta (with its dumps, and its own apply-al as the answer),
// and 6 areas of a kernel's disks, taken while it ran and after crashes.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import { repositoryRoot } from '../../test/support/root.ts'
import { type AlUpdate, blockPosition, decodeBlock, replay } from './activity-log.ts'
import { type ApplyAlResult, applyActivityLog } from './apply-al.ts'
import { Bitmap } from './bitmap.ts'
import { dumpActivityLog, dumpText, getGi } from './dump.ts'
import { ActivityLogUnusableError } from './errors.ts'
import { flexibleExternalLayout, indexedLayout, internalLayout, type MdLayout } from './layout.ts'
import {
  alGeometryOf,
  bitmapBits,
  bitmapBytesInUse,
  decodeSuperblock,
  diskStateFromFlags,
  encodeSuperblock,
  isClean,
  MD_MAGIC_UNCLEAN,
  MDF_AL_CLEAN,
  type Superblock,
  verifySuperblock,
} from './superblock.ts'

interface ManifestEntry {
  readonly name: string
  readonly device_size: number
  readonly placement: string
  readonly md_offset: number
  readonly al_offset: number
  readonly bm_offset: number
  readonly usable_sectors: number
  readonly region_offset: number
  readonly region_length: number
  readonly superblock: { readonly [field: string]: string | number }
  readonly get_gi: string
  readonly set_bit_ranges: readonly (readonly [number, number])[]
  readonly set_bit_ranges_after_apply_al?: readonly (readonly [number, number])[]
  readonly active_extents?: readonly number[]
  readonly apply_al_exit?: number
  readonly transactions?: readonly {
    readonly block: number
    readonly tr_number: number
    readonly context_start?: number
    readonly updates: readonly (readonly [number, number])[]
    readonly torn?: boolean
  }[]
}

const folder = join(repositoryRoot, 'test/golden/metadata-fixtures')
const manifest: readonly ManifestEntry[] = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'))

/** Bytes of a device that is zero outside the region at `regionOffset`. */
function readDevice(region: Uint8Array, regionOffset: number, offsetBytes: number, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes)
  const from = Math.max(offsetBytes, regionOffset)
  const to = Math.min(offsetBytes + lengthBytes, regionOffset + region.length)
  if (from < to) bytes.set(region.subarray(from - regionOffset, to - regionOffset), from - offsetBytes)
  return bytes
}

interface Area {
  readonly layout: MdLayout
  readonly superblock: Superblock
  readonly superblockBytes: Uint8Array
  readonly logBytes: Uint8Array
  readonly bitmapBytes: Uint8Array
}

function layoutOf(entry: ManifestEntry, superblock: Superblock): MdLayout {
  const geometry = alGeometryOf(superblock)
  if (entry.placement === 'internal') return internalLayout(entry.device_size, geometry)
  if (entry.placement === 'flex-external') return flexibleExternalLayout(entry.device_size, geometry)
  return indexedLayout(Number(entry.placement))
}

function loadArea(entry: ManifestEntry): Area {
  const region = new Uint8Array(readFileSync(join(folder, `${entry.name}.bin`)))
  assert.equal(region.length, entry.region_length)
  const read = (offsetBytes: number, lengthBytes: number): Uint8Array =>
    readDevice(region, entry.region_offset, offsetBytes, lengthBytes)
  const superblockBytes = read(entry.md_offset, 4096)
  const superblock = decodeSuperblock(superblockBytes)
  const layout = layoutOf(entry, superblock)
  return {
    layout,
    superblock,
    superblockBytes,
    logBytes: read(layout.activityLogOffsetBytes, layout.activityLogBytes),
    bitmapBytes: read(layout.bitmapOffsetBytes, Math.min(layout.bitmapAreaBytes, 64 << 20)),
  }
}

function entryNamed(name: string): ManifestEntry {
  const entry = manifest.find((candidate) => candidate.name === name)
  assert.ok(entry !== undefined, `fixture ${name}`)
  return entry
}

/** Inclusive ranges of all set bits, padding included. */
function setBitRanges(bytes: Uint8Array): [number, number][] {
  const ranges: [number, number][] = []
  const bitmap = Bitmap.fromDisk(bytes.length * 8, bytes)
  for (let from = bitmap.nextSet(0); from < bitmap.bits; ) {
    const to = bitmap.nextClear(from)
    ranges.push([from, to - 1])
    from = bitmap.nextSet(to)
  }
  return ranges
}

function expectedDump(entry: ManifestEntry): { text: string; withLog: boolean } {
  const path = join(folder, `${entry.name}.dump.txt`)
  const file = readdirSync(folder).includes(`${entry.name}.dump.txt`)
    ? readFileSync(path, 'utf8')
    : gunzipSync(readFileSync(`${path}.gz`)).toString('utf8')
  const lines = file.split('\n')
  const command = lines[2] ?? ''
  assert.match(command, /^# drbdmeta /)
  return { text: [...lines.slice(0, 1), ...lines.slice(3)].join('\n'), withLog: command.includes(' -v ') }
}

assert.equal(manifest.length, 18)

for (const entry of manifest) {
  const area = loadArea(entry)
  const { superblock: s, layout } = area

  test(`${entry.name}: layout and superblock fields`, () => {
    assert.equal(layout.superblockOffsetBytes, entry.md_offset)
    assert.equal(layout.activityLogOffsetBytes, entry.al_offset)
    assert.equal(layout.bitmapOffsetBytes, entry.bm_offset)
    assert.equal(layout.usableSectors, entry.usable_sectors)
    assert.deepEqual(
      [layout.mdSizeSectors, layout.alOffsetSectors, layout.bmOffsetSectors],
      [s.mdSizeSectors, s.alOffset, s.bmOffset],
    )
    const hex = (value: bigint): string => value.toString(16).toUpperCase().padStart(16, '0')
    const hex32 = (value: number): string => `0x${value.toString(16).toUpperCase().padStart(8, '0')}`
    assert.deepEqual(
      {
        la_size_sect: s.laSizeSectors,
        uuid_current: hex(s.current),
        uuid_bitmap: hex(s.bitmap),
        uuid_history0: hex(s.history1),
        uuid_history1: hex(s.history2),
        device_uuid: hex(s.deviceUuid),
        flags: hex32(s.flags),
        magic: hex32(s.magic),
        md_size_sect: s.mdSizeSectors,
        al_offset: s.alOffset,
        al_nr_extents: s.alExtents,
        bm_offset: s.bmOffset,
        bm_bytes_per_bit: s.bytesPerBit,
        la_peer_max_bio_size: s.peerMaxBioBytes,
        al_stripes: s.alStripes,
        al_stripe_size_4k: s.alStripeSize4k,
      },
      entry.superblock,
    )
    assert.deepEqual(encodeSuperblock(s), area.superblockBytes)
    assert.equal(isClean(s), s.magic !== MD_MAGIC_UNCLEAN && (s.flags & MDF_AL_CLEAN) !== 0)
    verifySuperblock(s, { layout, deviceBytes: entry.device_size, allowUnclean: true })
  })

  test(`${entry.name}: get-gi line, set bits, text dump`, () => {
    assert.equal(getGi(s), entry.get_gi)
    assert.deepEqual(setBitRanges(area.bitmapBytes), entry.set_bit_ranges)
    const expected = expectedDump(entry)
    const log = expected.withLog ? dumpActivityLog(area.logBytes, alGeometryOf(s)) : ''
    assert.equal(dumpText(s, area.bitmapBytes, layout) + log, expected.text)
  })

  if (entry.transactions !== undefined) testTransactions(entry, area)
  if (entry.name.endsWith('-unclean')) testApply(entry, area)
}

function testTransactions(entry: ManifestEntry, area: Area): void {
  test(`${entry.name}: transactions and hot extents`, () => {
    const geometry = alGeometryOf(area.superblock)
    for (const transaction of entry.transactions ?? []) {
      const at = transaction.block * 4096
      const block = decodeBlock(area.logBytes.subarray(at, at + 4096))
      assert.equal(blockPosition(transaction.tr_number, geometry), at)
      if (transaction.torn === true) {
        assert.deepEqual(block, { type: 'invalid', reason: 'checksum' })
        continue
      }
      // In the torn fixture the block of transaction 5 is the one that 13 was to replace.
      if (entry.transactions?.some((other) => other.torn === true && other.block === transaction.block)) continue
      assert.ok(block.type === 'update')
      assert.equal(block.trNumber, transaction.tr_number)
      assert.equal(block.contextStart, transaction.context_start ?? 0)
      const updates: AlUpdate[] = transaction.updates.map(([slot, extent]) => ({ slot, extent }))
      assert.deepEqual(block.updates, updates)
    }
    assert.deepEqual(replay(area.logBytes, geometry).hotExtents, entry.active_extents)
  })
}

function applied(area: Area): ApplyAlResult {
  const { superblock, logBytes, bitmapBytes } = area
  return applyActivityLog({ superblock, logBytes, bitmapBytes, geometry: alGeometryOf(superblock) })
}

function testApply(entry: ManifestEntry, area: Area): void {
  const answer = manifest.find((other) => other.name === entry.name.replace('-unclean', '-applied'))
  if (answer !== undefined) {
    test(`${entry.name}: apply-al gives drbdmeta's bytes`, () => {
      const result = applied(area)
      const expected = loadArea(answer)
      assert.deepEqual(encodeSuperblock(result.superblock), expected.superblockBytes)
      assert.deepEqual(result.logBytes, expected.logBytes)
      assert.deepEqual(result.bitmapBytes, expected.bitmapBytes)
      verifySuperblock(result.superblock, { layout: area.layout, deviceBytes: entry.device_size })
    })
  }
  const ranges = entry.set_bit_ranges_after_apply_al
  if (ranges !== undefined) {
    test(`${entry.name}: apply-al sets drbdmeta's bits`, () => {
      const result = applied(area)
      assert.deepEqual(setBitRanges(result.bitmapBytes), ranges)
      assert.equal(result.bitsSet * 4096, 4948 * 1024 * 1024) // its message: "Marked additional 4948 MB"
    })
  }
  assert.ok(answer !== undefined || ranges !== undefined || entry.apply_al_exit === 1, entry.name)
  if (entry.apply_al_exit === 1) {
    test(`${entry.name}: apply-al refuses`, () => {
      assert.throws(() => applied(area), ActivityLogUnusableError)
    })
  }
}

test('04: the dirty bit before, and the padding that apply-al sets on the last extent', () => {
  const { superblock, bitmapBytes } = loadArea(entryNamed('04-internal-64MiB-al-primary-applied'))
  const bits = bitmapBits(superblock.laSizeSectors)
  assert.equal(bits, 16374)
  const bitmap = Bitmap.fromDisk(bits, bitmapBytes)
  assert.equal(bitmap.count, 3073 - (16384 - 16374))
  assert.deepEqual(bitmap.takeDirtyBlocks(), [])
})

// ---- areas of a kernel ----------------------------------------------------------------------------------------------

const kernelFolder = join(repositoryRoot, 'test/golden/drbd/captures/metadata')

/** 40 KiB: bitmap, log, superblock of internal metadata; 8 MiB of data and less. */
function loadKernelArea(name: string): Area & { readonly deviceBytes: number } {
  const region = new Uint8Array(gunzipSync(readFileSync(join(kernelFolder, `${name}.bin.gz`))))
  assert.equal(region.length, 40960)
  const superblockBytes = region.subarray(36864)
  const superblock = decodeSuperblock(superblockBytes)
  const deviceBytes = superblock.laSizeSectors * 512 + region.length
  const layout = internalLayout(deviceBytes, alGeometryOf(superblock))
  assert.equal(layout.usableSectors, superblock.laSizeSectors)
  const logBytes = region.subarray(4096, 36864)
  return { layout, superblock, superblockBytes, logBytes, bitmapBytes: region.subarray(0, 4096), deviceBytes }
}

const kernelAreas = readdirSync(kernelFolder)
  .filter((name) => name.endsWith('.bin.gz'))
  .map((name) => name.replace('.bin.gz', ''))
assert.equal(kernelAreas.length, 6)

for (const name of kernelAreas) {
  test(`kernel area ${name}: unclean, plausible, same bytes when written again`, () => {
    const { superblock, superblockBytes, layout, deviceBytes } = loadKernelArea(name)
    assert.equal(superblock.magic, MD_MAGIC_UNCLEAN)
    assert.equal(isClean(superblock), false)
    assert.deepEqual(encodeSuperblock(superblock), superblockBytes)
    verifySuperblock(superblock, { layout, deviceBytes, allowUnclean: true })
    assert.throws(() => verifySuperblock(superblock, { layout, deviceBytes }), { code: 'E_META_UNCLEAN' })
  })
}

test('kernel area of a running Primary: the extent written is hot, apply-al marks the whole small device', () => {
  const area = loadKernelArea('23-crashed-primary.primary-hot')
  const found = replay(area.logBytes, alGeometryOf(area.superblock))
  assert.equal(found.status, 'ok')
  assert.equal(found.newestTrNumber, 8) // 0 to 7 at the first attach, each with a window of the table
  assert.equal(found.updateBlocks, 8)
  assert.deepEqual(found.hotExtents, [0])
  const newest = decodeBlock(area.logBytes.subarray(0, 4096))
  assert.ok(newest.type === 'update')
  assert.deepEqual(newest.updates, [{ slot: 1236, extent: 0 }]) // the kernel takes free slots from the top
  const result = applied(area)
  const bits = bitmapBits(area.superblock.laSizeSectors)
  const bitmap = Bitmap.fromDisk(bits, result.bitmapBytes)
  assert.equal(bitmap.count, Math.min(bits, 1024))
  assert.equal(diskStateFromFlags(result.superblock.flags), 'Consistent')
})

test('kernel area after a regular stop: bits are kept, the log adds nothing', () => {
  const area = loadKernelArea('24-metadata-bitmap.a-down')
  const result = applied(area)
  assert.equal(result.bitmapChanged, false)
  assert.ok(result.logBytes !== undefined)
  const bitmap = Bitmap.fromDisk(bitmapBits(area.superblock.laSizeSectors), area.bitmapBytes)
  assert.equal(bitmap.count, 20) // as drbdmeta counted: "# bits-set 20;"
  assert.equal(bitmapBytesInUse(area.superblock.laSizeSectors), 4096)
})

test('kernel area of a Secondary after its first attach: eight blocks without updates, nothing hot', () => {
  const area = loadKernelArea('24-metadata-bitmap.b-down')
  const found = replay(area.logBytes, alGeometryOf(area.superblock))
  assert.deepEqual([found.status, found.updateBlocks, found.newestTrNumber], ['ok', 8, 7])
  assert.deepEqual(found.hotExtents, [])
})
