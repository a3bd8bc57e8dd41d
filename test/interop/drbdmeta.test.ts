// Goal: drbdmeta of drbd-utils takes what we write for its own, and we take what it writes; apply-al gives the same bytes
// from both. Method: sparse files as devices, with a minor number of our own; our bytes are written, the tool runs, and
// every area is compared byte for byte. Without drbdmeta each test is a skip that says so.
//
// The tool remembers the device size of each minor in a state file and moves metadata of a device that has grown: the
// file is removed whenever a new device is made, and at the end.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Prng } from '../../src/base/prng.ts'
import { GIB, KIB, MIB } from '../../src/base/units.ts'
import {
  AL_FREE,
  blockPosition,
  encodeTransaction,
  initialLog,
  nextContextStart,
  replay,
} from '../../src/meta/activity-log.ts'
import { applyActivityLog } from '../../src/meta/apply-al.ts'
import { Bitmap } from '../../src/meta/bitmap.ts'
import { type CreateMetadataOptions, createMetadata, createSuperblock } from '../../src/meta/create.ts'
import { dumpActivityLog, dumpText, getGi } from '../../src/meta/dump.ts'
import { ActivityLogUnusableError } from '../../src/meta/errors.ts'
import {
  type AlGeometry,
  DEFAULT_AL_GEOMETRY,
  flexibleExternalLayout,
  indexedLayout,
  internalLayout,
  type MdLayout,
} from '../../src/meta/layout.ts'
import {
  alGeometryOf,
  bitmapBits,
  bitmapBytesInUse,
  decodeSuperblock,
  diskStateFromFlags,
  encodeSuperblock,
  MD_MAGIC_CLEAN,
  MD_MAGIC_UNCLEAN,
  MDF_AL_CLEAN,
  type Superblock,
  verifySuperblock,
} from '../../src/meta/superblock.ts'

const version = spawnSync('drbdmeta', ['--help'])
const skip = version.error === undefined ? false : 'drbdmeta (Debian package drbd-utils) is not on the PATH'
const long = process.env['COPRIME_LONG'] === '1'

const MINOR = String(100_000 + (process.pid % 900_000))
const STATE_FILES = ['/var/lib/drbd', '/run/drbd'].map((folder) => join(folder, `drbd-minor-${MINOR}.lkbd`))
const folder = mkdtempSync(join(tmpdir(), 'coprime-drbdmeta-'))

function forgetSize(): void {
  for (const path of STATE_FILES) rmSync(path, { force: true })
}

after(() => {
  forgetSize()
  rmSync(folder, { recursive: true, force: true })
})

interface Placement {
  readonly kind: CreateMetadataOptions['kind']
  /** As drbdmeta calls it. */
  readonly tool: string
  readonly deviceBytes: number
  readonly geometry: AlGeometry
}

function layoutOf({ kind, tool, deviceBytes, geometry }: Placement): MdLayout {
  if (kind === 'internal') return internalLayout(deviceBytes, geometry)
  return kind === 'flexible' ? flexibleExternalLayout(deviceBytes, geometry) : indexedLayout(Number(tool))
}

interface Areas {
  readonly superblock: Uint8Array
  readonly log: Uint8Array
  readonly bitmap: Uint8Array
}

/** A sparse file that is a device. */
class Device {
  readonly place: Placement
  readonly layout: MdLayout
  readonly #path: string
  readonly #fd: number

  constructor(place: Placement) {
    forgetSize()
    this.place = place
    this.layout = layoutOf(place)
    this.#path = join(folder, 'device.img')
    this.#fd = openSync(this.#path, 'w+')
    ftruncateSync(this.#fd, place.deviceBytes)
  }

  close(): void {
    closeSync(this.#fd)
    rmSync(this.#path)
  }

  write(offsetBytes: number, data: Uint8Array): void {
    assert.equal(writeSync(this.#fd, data, 0, data.length, offsetBytes), data.length)
  }

  read(offsetBytes: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes)
    assert.equal(readSync(this.#fd, bytes, 0, lengthBytes, offsetBytes), lengthBytes)
    return bytes
  }

  writeAreas({ bitmap, log, superblock }: Areas): void {
    this.write(this.layout.bitmapOffsetBytes, bitmap)
    this.write(this.layout.activityLogOffsetBytes, log)
    this.write(this.layout.superblockOffsetBytes, superblock)
  }

  /** Of the bitmap area the first 32 MiB: more is never in use here. */
  readAreas(): Areas {
    return {
      bitmap: this.read(this.layout.bitmapOffsetBytes, Math.min(this.layout.bitmapAreaBytes, 32 * MIB)),
      log: this.read(this.layout.activityLogOffsetBytes, this.layout.activityLogBytes),
      superblock: this.read(this.layout.superblockOffsetBytes, 4096),
    }
  }

  /** Runs drbdmeta on this device. */
  tool(...command: string[]): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
    return this.#run(['--force'], command)
  }

  toolVerbose(...command: string[]): string {
    const verbose = Array.from({ length: 10 }, () => '-v')
    const result = this.#run(['--force', ...verbose], command)
    assert.equal(result.status, 0, result.stderr)
    return result.stdout
  }

  /** Standard output of a command that must succeed. */
  ask(...command: string[]): string {
    const result = this.tool(...command)
    assert.equal(result.status, 0, `${command.join(' ')}: ${result.stderr}${result.stdout}`)
    return result.stdout
  }

  #run(options: string[], command: string[]): ReturnType<Device['tool']> {
    const args = [...options, MINOR, 'v08', this.#path, this.place.tool, ...command]
    const { status, stdout, stderr, error } = spawnSync('drbdmeta', args, { encoding: 'utf8', maxBuffer: 64 * MIB })
    if (error !== undefined) throw error
    return { status, stdout, stderr }
  }
}

function withDevice(place: Placement, use: (device: Device) => void): void {
  const device = new Device(place)
  try {
    use(device)
  } finally {
    device.close()
  }
}

function sameAreas(actual: Areas, expected: Areas, what: string): void {
  for (const area of ['superblock', 'log', 'bitmap'] as const) {
    if (Buffer.compare(actual[area], expected[area]) === 0) continue
    const at = actual[area].findIndex((byte, i) => byte !== expected[area][i])
    assert.fail(`${what}: ${area} differs from byte ${at} on`)
  }
}

/** The dump without the two header lines that name date and host. */
function withoutDate(text: string): string {
  return text.replace(/(^|\n)(# DRBD meta data dump\n)# [^\n]*\n# [^\n]*\n/, '$1$2')
}

const internal = (deviceBytes: number, geometry = DEFAULT_AL_GEOMETRY): Placement => ({
  kind: 'internal',
  tool: 'internal',
  deviceBytes,
  geometry,
})
const flexible = (deviceBytes: number, geometry = DEFAULT_AL_GEOMETRY): Placement => ({
  kind: 'flexible',
  tool: 'flex-external',
  deviceBytes,
  geometry,
})
const indexed = (index: number, deviceBytes: number): Placement => ({
  kind: 'indexed',
  tool: String(index),
  deviceBytes,
  geometry: DEFAULT_AL_GEOMETRY,
})

const STRIPED: AlGeometry = { stripes: 4, stripeSize4k: 4 }

const PLACEMENTS: readonly Placement[] = [
  internal(69632),
  internal(MIB),
  internal(16 * MIB + 2560),
  internal(64 * MIB),
  internal(128 * MIB),
  internal(128 * MIB + 512),
  internal(300 * MIB, STRIPED),
  internal(GIB),
  internal(1024 * GIB),
  flexible(MIB),
  flexible(3 * MIB + 512, STRIPED),
  flexible(33 * MIB),
  indexed(0, 128 * MIB),
  indexed(1, 256 * MIB),
  indexed(5, 1024 * MIB),
]

const nameOf = ({ tool, deviceBytes, geometry }: Placement): string =>
  `${tool}, ${deviceBytes} bytes, log ${geometry.stripes} x ${geometry.stripeSize4k}`

function createOptions(device: Device): CreateMetadataOptions {
  const { kind, geometry } = device.place
  return { layout: device.layout, geometry, alExtents: 257, deviceUuid: 0n, kind }
}

/** The largest DRBD device that the tests make: its bitmap has 32 MiB. */
const DATA_SECTORS_MAX = 2 ** 31

/** The tool does not dump a bitmap that uses the last, partial 4 KiB of a device ("confused in fprintf_bm"). */
function sizeOf(layout: MdLayout): number {
  const wholeBlocks = Math.floor(layout.bitmapAreaBytes / 4096)
  return Math.min(layout.usableSectors, wholeBlocks * 262144, DATA_SECTORS_MAX)
}

for (const place of PLACEMENTS) {
  test(`create-md, ours and the tool's, are the same bytes: ${nameOf(place)}`, { skip }, () => {
    withDevice(place, (device) => {
      device.ask(
        'create-md',
        `--al-stripes=${place.geometry.stripes}`,
        `--al-stripe-size-kB=${place.geometry.stripeSize4k * 4}`,
      )
      const theirs = device.readAreas()
      const superblock = decodeSuperblock(theirs.superblock)
      assert.deepEqual(alGeometryOf(superblock), place.geometry)
      if (place.deviceBytes >= MIB) {
        verifySuperblock(superblock, { layout: device.layout, deviceBytes: place.deviceBytes })
      }

      // Dirt, where there must be none after our create-md. 1 TiB: the log and superblock are enough.
      const dirt = new Uint8Array(Math.min(device.layout.bitmapAreaBytes, 64 * KIB)).fill(0xee)
      device.writeAreas({
        bitmap: dirt,
        log: new Uint8Array(theirs.log.length).fill(0xee),
        superblock: new Uint8Array(4096),
      })
      for (const { offsetBytes, data } of createMetadata(createOptions(device))) device.write(offsetBytes, data)
      sameAreas(device.readAreas(), theirs, 'ours against the tool')
      assert.equal(device.ask('get-gi').trim(), getGi(superblock))
      assert.equal(withoutDate(device.ask('dump-md')), dumpText(superblock, theirs.bitmap, device.layout))
    })
  })
}

// ---- superblocks and bitmaps that we wrote --------------------------------------------------------------------------

function randomSuperblock(prng: Prng, device: Device, changes: Partial<Superblock>): Superblock {
  return {
    ...createSuperblock(createOptions(device)),
    laSizeSectors: sizeOf(device.layout),
    current: prng.u64(),
    bitmap: prng.u64(),
    history1: prng.u64(),
    history2: prng.u64(),
    deviceUuid: prng.u64(),
    alExtents: prng.intInclusive(67, 6433),
    peerMaxBioBytes: 1048576,
    ...changes,
  }
}

/** Some runs, some single bits, some noise. */
function randomBitmap(prng: Prng, bits: number): Bitmap {
  const bitmap = new Bitmap(bits)
  for (let i = prng.intInclusive(0, 40); i > 0; i--) {
    const from = prng.intInclusive(0, bits - 1)
    const length = prng.pick([1, 3, 64, 256, 300, 1024, 2048, 5000])
    bitmap.set(from, Math.min(bits, from + length))
  }
  return bitmap
}

/** As many bytes of the bitmap area as are in use. */
function diskBytesOf(bitmap: Bitmap): Uint8Array {
  const bytes = new Uint8Array(bitmap.diskBytes)
  for (let index = 0; index * 4096 < bytes.length; index++) bytes.set(bitmap.block(index), index * 4096)
  return bytes
}

for (const place of PLACEMENTS) {
  test(`the tool reads what we wrote: ${nameOf(place)}`, { skip }, () => {
    const prng = new Prng(place.deviceBytes % 1_000_003)
    withDevice(place, (device) => {
      for (const magic of [MD_MAGIC_CLEAN, MD_MAGIC_UNCLEAN]) {
        const superblock = randomSuperblock(prng, device, { flags: prng.u32() & 0x1ff, magic })
        const bits = bitmapBits(superblock.laSizeSectors)
        const bitmap = randomBitmap(prng, bits)
        const bytes = diskBytesOf(bitmap)
        const log = initialLog(place.geometry)
        device.writeAreas({ bitmap: bytes, log, superblock: encodeSuperblock(superblock) })

        assert.equal(device.ask('get-gi').trim(), getGi(superblock))
        assert.equal(device.ask('dstate').trim(), diskStateFromFlags(superblock.flags))
        assert.equal(BigInt(`0x${device.ask('read-dev-uuid').trim()}`), superblock.deviceUuid)
        const dump = withoutDate(device.ask('dump-md'))
        assert.equal(dump, dumpText(superblock, bytes, device.layout))
        assert.ok(dump.endsWith(`# bits-set ${bitmap.count};\n`))
      }
    })
  })
}

for (const place of [internal(64 * MIB), internal(300 * MIB, STRIPED), flexible(MIB), indexed(1, 256 * MIB)]) {
  test(`the tool restores our dump, we read what it wrote: ${nameOf(place)}`, { skip }, () => {
    const prng = new Prng(7)
    withDevice(place, (device) => {
      const flags = 0x11 | MDF_AL_CLEAN
      const laSizeSectors = Math.min(sizeOf(device.layout), 2 ** 21 + 8)
      const superblock = randomSuperblock(prng, device, { flags, laSizeSectors })
      const bitmap = randomBitmap(prng, bitmapBits(laSizeSectors))
      const bytes = diskBytesOf(bitmap)
      const text = join(folder, 'dump.txt')
      writeFileSync(text, dumpText(superblock, bytes, device.layout, { trueFlags: true }))

      device.ask(
        'create-md',
        `--al-stripes=${place.geometry.stripes}`,
        `--al-stripe-size-kB=${place.geometry.stripeSize4k * 4}`,
      )
      device.ask('restore-md', text)
      const restored = device.readAreas()
      const read = decodeSuperblock(restored.superblock)
      assert.deepEqual(read, { ...superblock, alExtents: 257 }) // the tool does not restore that one
      verifySuperblock(read, { layout: device.layout, deviceBytes: place.deviceBytes })
      const readBitmap = Bitmap.fromDisk(bitmap.bits, restored.bitmap)
      assert.equal(readBitmap.count, bitmap.count)
      assert.deepEqual(diskBytesOf(readBitmap), bytes)
    })
  })
}

test('the tool refuses the offsets that we refuse, and takes those that we take', { skip }, () => {
  const place = internal(284 * MIB)
  withDevice(place, (device) => {
    const good = randomSuperblock(new Prng(8), device, { flags: 0x91 })
    const cases: readonly Partial<Superblock>[] = [
      {},
      { alStripes: 0, alStripeSize4k: 0 },
      { alStripes: 2 },
      { alStripes: 0 },
      { alOffset: good.alOffset - 8 },
      { alOffset: 8, bmOffset: 72 },
      { bmOffset: good.bmOffset + 8 },
      { bmOffset: good.bmOffset - 8 },
      { mdSizeSectors: good.mdSizeSectors + 8 },
      { bytesPerBit: 8192 },
    ]
    for (const change of cases) {
      const superblock = { ...good, ...change }
      device.writeAreas({
        bitmap: new Uint8Array(12288),
        log: initialLog(place.geometry),
        superblock: encodeSuperblock(superblock),
      })
      let weTake = true
      try {
        verifySuperblock(superblock, { layout: device.layout, deviceBytes: place.deviceBytes })
      } catch {
        weTake = false
      }
      const toolTakes = device.tool('dump-md').status === 0
      // The tool leaves this one to the kernel, which refuses it.
      if (change.bytesPerBit !== undefined) assert.equal(weTake, false)
      else assert.equal(toolTakes, weTake, JSON.stringify(change))
    }
  })
})

// ---- apply-al -------------------------------------------------------------------------------------------------------

interface CrashedNode {
  readonly superblock: Superblock
  readonly bitmapBytes: Uint8Array
  readonly log: Uint8Array
}

/** Both apply the log; both must agree on success, and on every byte. Returns what ours said. */
function applyOnBoth(device: Device, node: CrashedNode, what: string): 'applied' | 'refused' {
  const { superblock, bitmapBytes, log } = node
  const before: Areas = { superblock: encodeSuperblock(superblock), log, bitmap: bitmapBytes }
  device.writeAreas(before)
  let expected = before
  let outcome: 'applied' | 'refused' = 'applied'
  try {
    const ours = applyActivityLog({ superblock, logBytes: log, bitmapBytes, geometry: device.place.geometry })
    expected = {
      superblock: encodeSuperblock(ours.superblock),
      log: ours.logBytes ?? log,
      bitmap: ours.bitmapBytes,
    }
  } catch (error) {
    if (!(error instanceof ActivityLogUnusableError)) throw error
    outcome = 'refused'
  }
  const result = device.tool('apply-al')
  assert.equal(result.status === 0, outcome === 'applied', `${what}: the tool says ${result.status}, ${result.stderr}`)
  const after = device.readAreas()
  sameAreas({ ...after, bitmap: after.bitmap.subarray(0, bitmapBytes.length) }, expected, what)
  if (outcome === 'applied') {
    const context = { layout: device.layout, deviceBytes: device.place.deviceBytes }
    verifySuperblock(decodeSuperblock(after.superblock), context)
  }
  return outcome
}

/** Writes transactions with full windows, as a node does. Returns the log and the extents that are hot at the end. */
function writeLog(
  prng: Prng,
  options: {
    readonly geometry: AlGeometry
    readonly slots: number
    readonly trStart: number
    readonly transactions: number
    readonly extentMax: number
  },
): { readonly log: Uint8Array; readonly hot: number[] } {
  const log = initialLog(options.geometry)
  const table = new Uint32Array(options.slots).fill(AL_FREE)
  let contextStart = 0
  for (let i = 0; i < options.transactions; i++) {
    const trNumber = (options.trStart + i) >>> 0
    const used = new Set<number>()
    for (let n = prng.intInclusive(0, 64); n > 0; n--) used.add(prng.intInclusive(0, options.slots - 1))
    const updates = [...used].map((slot) => ({
      slot,
      extent: prng.chance(1, 12) ? AL_FREE : prng.intInclusive(0, options.extentMax),
    }))
    const block = encodeTransaction({ trNumber, slots: table, contextStart, updates })
    log.set(block, blockPosition(trNumber, options.geometry))
    for (const { slot, extent } of updates) table[slot] = extent
    contextStart = nextContextStart(contextStart, options.slots)
  }
  const hot = [...new Set(table)].filter((extent) => extent !== AL_FREE).sort((a, b) => a - b)
  return { log, hot }
}

const CRASHES: readonly { readonly place: Placement; readonly slots: number; readonly trStart: number }[] = [
  { place: internal(64 * MIB), slots: 1237, trStart: 0 },
  { place: internal(64 * MIB), slots: 67, trStart: -3 },
  { place: internal(300 * MIB, STRIPED), slots: 1237, trStart: -20 },
  { place: internal(8 * GIB), slots: 1237, trStart: -9 },
  { place: internal(40 * GIB, { stripes: 1, stripeSize4k: 73 }), slots: 65534, trStart: 1000 },
  { place: flexible(MIB), slots: 6433, trStart: -1 },
  { place: flexible(3 * MIB + 512, STRIPED), slots: 919, trStart: 5 },
  { place: indexed(1, 256 * MIB), slots: 920, trStart: 0x40000000 },
]

for (const { place, slots, trStart } of CRASHES) {
  test(`apply-al after a crash of a Primary: ${nameOf(place)}, ${slots} slots, from ${trStart}`, { skip }, () => {
    const prng = new Prng(slots + place.deviceBytes)
    withDevice(place, (device) => {
      const laSizeSectors = Math.min(device.layout.usableSectors, 2 ** 27 - 1000)
      const extentMax = Math.floor((laSizeSectors - 1) / 8192)
      for (const transactions of [1, 2, 7, 8, 9, 23, 200]) {
        const { log, hot } = writeLog(prng, { geometry: place.geometry, slots, trStart, transactions, extentMax })
        assert.deepEqual(replay(log, place.geometry).hotExtents, hot)
        const superblock = randomSuperblock(prng, device, {
          laSizeSectors,
          flags: 0x13,
          magic: MD_MAGIC_UNCLEAN,
          alExtents: slots,
        })
        const bitmap = randomBitmap(prng, bitmapBits(laSizeSectors))
        const bitmapBytes = diskBytesOf(bitmap)
        if (transactions === 9) {
          // The text of the log, too.
          device.writeAreas({ bitmap: bitmapBytes, log, superblock: encodeSuperblock(superblock) })
          const text = dumpText(superblock, bitmapBytes, device.layout) + dumpActivityLog(log, place.geometry)
          assert.equal(withoutDate(device.toolVerbose('dump-md')), text)
        }
        assert.equal(applyOnBoth(device, { superblock, bitmapBytes, log }, `${transactions} transactions`), 'applied')
        const marked = Bitmap.fromDisk(bitmap.bits, device.readAreas().bitmap)
        for (const extent of hot) {
          const to = Math.min((extent + 1) * 1024, bitmap.bits)
          assert.equal(marked.countRange(extent * 1024, to), to - extent * 1024, `extent ${extent}`)
        }
      }
    })
  })
}

/** Damages a log in one of the ways that a crash or a bad disk would, or worse. */
function damage(prng: Prng, log: Uint8Array): string {
  const blocks = log.length / 4096
  const kind = prng.pick(['none', 'torn', 'zero-first', 'zero-some', 'flip', 'zero-all', 'noise-all', 'zero-tail'])
  const at = prng.intInclusive(0, blocks - 1) * 4096
  if (kind === 'torn') log.fill(prng.u32() & 0xff, at + 512 * prng.intInclusive(1, 7), at + 4096)
  if (kind === 'zero-first') log.fill(0, 0, 4096)
  if (kind === 'zero-some') log.fill(0, at, at + 4096 * prng.intInclusive(1, 4))
  if (kind === 'flip') for (let i = 0; i < 3; i++) log[prng.intInclusive(0, log.length - 1)] = prng.u32() & 0xff
  if (kind === 'zero-all') log.fill(0)
  if (kind === 'noise-all') prng.fill(log)
  if (kind === 'zero-tail') log.fill(0, 4096 * prng.intInclusive(1, blocks - 1))
  return kind
}

for (const geometry of [DEFAULT_AL_GEOMETRY, STRIPED]) {
  const name = `${geometry.stripes} x ${geometry.stripeSize4k}`
  test(`apply-al on damaged logs decides as the tool does: log ${name}`, { skip }, () => {
    const prng = new Prng(21)
    const outcomes = { applied: 0, refused: 0 }
    withDevice(internal(300 * MIB, geometry), (device) => {
      for (let i = 0; i < (long ? 1000 : 120); i++) {
        const slots = prng.pick([67, 1237, 3000])
        const transactions = prng.pick([0, 0, 1, 3, 8, 30])
        const trStart = prng.pick([0, -4, 77])
        const laSizeSectors = prng.pick([device.layout.usableSectors, 262144, 262152, 262136, 8, 0])
        const { log } = writeLog(prng, { geometry, slots, trStart, transactions, extentMax: 80 })
        const kind = damage(prng, log)
        // With updates under the clean magic the tool overlooks some where the first blocks are damaged (see below).
        const magic = transactions > 0 ? MD_MAGIC_UNCLEAN : prng.pick([MD_MAGIC_UNCLEAN, MD_MAGIC_CLEAN])
        const flags = prng.u32() & 0x1ff
        // Some thousand slots under the clean magic smash the tool's stack when it looks for the format before 8.4.
        const superblock = randomSuperblock(prng, device, { laSizeSectors, flags, magic, alExtents: 257 })
        const bitmapBytes = new Uint8Array(device.layout.bitmapAreaBytes)
        bitmapBytes.set(diskBytesOf(randomBitmap(prng, bitmapBits(Math.max(8, laSizeSectors)))))
        const what = `case ${i}: ${kind}, ${transactions} transactions from ${trStart}, flags ${flags.toString(16)}`
        outcomes[applyOnBoth(device, { superblock, bitmapBytes, log }, what)]++
      }
    })
    assert.ok(outcomes.applied > 20 && outcomes.refused > 5, JSON.stringify(outcomes))
  })
}

/** Each transaction puts the next extent into the next slot, from the top of the table, as a kernel takes them. */
function ascendingLog(geometry: AlGeometry, trStart: number, transactions: number): Uint8Array {
  const log = initialLog(geometry)
  const slots = new Uint32Array(1300).fill(AL_FREE)
  let contextStart = 0
  for (let i = 0; i < transactions; i++) {
    const trNumber = (trStart + i) >>> 0
    const block = encodeTransaction({ trNumber, slots, contextStart, updates: [{ slot: 1299 - i, extent: i }] })
    log.set(block, blockPosition(trNumber, geometry))
    slots[1299 - i] = i
    contextStart = nextContextStart(contextStart, slots.length)
  }
  return log
}

test('where drbdmeta 9.22 loses transactions, we mark all that is hot', { skip }, (t) => {
  const compare = (name: string, place: Placement, magic: number, log: Uint8Array, hotExtents: number): void => {
    withDevice(place, (device) => {
      const superblock = randomSuperblock(new Prng(9), device, { flags: 0x93, magic, alExtents: 257 })
      const bitmapBytes = new Uint8Array(bitmapBytesInUse(superblock.laSizeSectors))
      device.writeAreas({ bitmap: bitmapBytes, log, superblock: encodeSuperblock(superblock) })
      device.ask('apply-al')
      const ours = applyActivityLog({ superblock, logBytes: log, bitmapBytes, geometry: place.geometry })
      assert.equal(ours.bitsSet, hotExtents * 1024, name)
      // Another release may have mended it: so not less than the tool, rather than more.
      const theirs = device.readAreas().bitmap
      assert.ok(ours.bitmapBytes.every((byte, i) => (byte & (theirs[i] as number)) === theirs[i]))
      t.diagnostic(`${name}: ours ${ours.bitsSet} bits, the tool ${Bitmap.fromDisk(theirs.length * 8, theirs).count}`)
    })
  }
  // Number 0 is written over a block in the middle of a ring whose length is not a power of two: the tool walks the
  // ring from the oldest to the newest by position, and passes over those behind the seam.
  const seam: AlGeometry = { stripes: 3, stripeSize4k: 4 }
  compare('wrap in a ring of 12', internal(512 * MIB, seam), MD_MAGIC_UNCLEAN, ascendingLog(seam, -30, 31), 31)
  // From 2^31 - 1 to 2^31 it takes the larger number for the older.
  const half = ascendingLog(DEFAULT_AL_GEOMETRY, 0x7ffffff8, 12)
  compare('numbers pass 2^31', internal(512 * MIB), MD_MAGIC_UNCLEAN, half, 12)
  // Under the clean magic it looks for the format before 8.4 if the first two blocks are of no known format.
  const early = ascendingLog(DEFAULT_AL_GEOMETRY, 5, 1)
  early.fill(0, 0, 8192)
  compare('first two blocks damaged', internal(64 * MIB), MD_MAGIC_CLEAN, early, 1)
})
