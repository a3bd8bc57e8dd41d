// Goal: the parts of the metadata reach the disk in an order that survives a crash at any point (metadata.md section 8), and
// attach reads them back, repaired.
// Method: a store whose operations complete at the test's command; attach of prepared devices through the engine.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { EngineHost, GENERATION, IO_ERROR, sectorsOf } from '../../test/support/engine-driver.ts'
import { Bitmap } from '../meta/bitmap.ts'
import { DEFAULT_AL_GEOMETRY, flexibleExternalLayout } from '../meta/layout.ts'
import {
  decodeSuperblock,
  MD_MAGIC_UNCLEAN,
  MDF_AL_CLEAN,
  MDF_CONSISTENT,
  type Superblock,
} from '../meta/superblock.ts'
import type { DiskError } from '../runtime/ports.ts'
import type { Effect } from './effects.ts'
import { MetadataStore } from './metadata-store.ts'

const layout = flexibleExternalLayout(1024 * 1024, DEFAULT_AL_GEOMETRY)
const BLANK: Superblock = {
  laSizeSectors: 2048,
  current: GENERATION,
  bitmap: 0n,
  history1: 0n,
  history2: 0n,
  deviceUuid: 7n,
  flags: MDF_CONSISTENT,
  magic: MD_MAGIC_UNCLEAN,
  mdSizeSectors: layout.mdSizeSectors,
  alOffset: layout.alOffsetSectors,
  alExtents: 67,
  bmOffset: layout.bmOffsetSectors,
  bytesPerBit: 4096,
  peerMaxBioBytes: 0,
  alStripes: 1,
  alStripeSize4k: 8,
}

interface World {
  readonly store: MetadataStore
  /** Operations ordered and not yet looked at. */
  orders(): string[]
  done(error?: DiskError): void
  readonly errors: DiskError[]
  readonly written: Uint8Array[]
  history1: bigint
}

function worldOf(external: boolean): World {
  let orders: string[] = []
  const world = {
    errors: [] as DiskError[],
    written: [] as Uint8Array[],
    history1: 0n,
    orders: (): string[] => {
      const taken = orders
      orders = []
      return taken
    },
    done: (error?: DiskError): void => world.store.onDisk(error),
    store: undefined as unknown as MetadataStore,
  }
  const emit = (effect: Effect): void => {
    if (effect.type === 'meta.write') {
      world.written.push(effect.data)
      orders.push(`write ${effect.offsetBytes}+${effect.data.length}`)
    } else orders.push(effect.type)
  }
  const host = {
    volumeNumber: 0,
    emit,
    onMetadataError: (error: DiskError) => world.errors.push(error),
    currentSuperblock: () => ({ ...BLANK, history1: world.history1 }),
    bitmapWritten: () => {},
  }
  world.store = new MetadataStore(host, layout, DEFAULT_AL_GEOMETRY, external)
  return world
}

/** Runs to the end; returns all operations. */
function runAll(world: World): string[] {
  const all: string[] = []
  for (let next = world.orders(); next.length > 0; next = world.orders()) {
    assert.equal(next.length, 1, 'one operation at a time')
    all.push(...next)
    world.done()
  }
  return all
}

describe('MetadataStore', () => {
  const SUPERBLOCK = `write ${layout.superblockOffsetBytes}+4096`
  const BITMAP = layout.bitmapOffsetBytes

  it('superblock: flush, write, flush; done only then', () => {
    const world = worldOf(true)
    let done = 0
    world.store.writeSuperblock(() => done++)
    for (const step of ['meta.flush', SUPERBLOCK, 'meta.flush']) {
      assert.equal(done, 0)
      assert.deepEqual(world.orders(), [step])
      world.done()
    }
    assert.equal(done, 1)
    assert.equal(world.store.idle, true)
  })

  it('superblocks that wait are one write, with the newest content', () => {
    const world = worldOf(true)
    const done: number[] = []
    world.store.writeSuperblock(() => done.push(1))
    world.store.writeSuperblock(() => done.push(2))
    world.store.writeSuperblock(() => done.push(3))
    world.history1 = 99n
    assert.equal(runAll(world).length, 6)
    assert.deepEqual(done, [1, 2, 3])
    assert.equal(decodeSuperblock(world.written[1] as Uint8Array).history1, 99n)
  })

  it('a superblock behind a bitmap is not joined with one before it', () => {
    const world = worldOf(true)
    const bitmap = new Bitmap(100)
    bitmap.set(1, 2)
    world.store.whenWritten(() => {})
    world.store.writeSuperblock()
    world.store.writeBitmap(bitmap, 'changed')
    world.store.writeSuperblock()
    const writes = runAll(world).filter((step) => step.startsWith('write'))
    assert.deepEqual(writes, [SUPERBLOCK, `write ${BITMAP}+4096`, SUPERBLOCK])
  })

  it('bitmap: the data is durable before the bits that say so', () => {
    const world = worldOf(true)
    const bitmap = new Bitmap(5 * 32768)
    bitmap.set(0, 1)
    bitmap.set(32768, 32769)
    bitmap.set(4 * 32768, 4 * 32768 + 1)
    world.store.writeBitmap(bitmap, 'changed')
    assert.deepEqual(runAll(world), [
      'disk.flush',
      `write ${BITMAP}+8192`,
      `write ${BITMAP + 4 * 4096}+4096`,
      'meta.flush',
    ])
    assert.equal(bitmap.dirtyBlocks, 0)
    world.store.writeBitmap(bitmap, 'changed')
    assert.deepEqual(runAll(world), [], 'nothing changed')
    world.store.writeBitmap(bitmap, 'all')
    assert.deepEqual(runAll(world), ['disk.flush', `write ${BITMAP}+${5 * 4096}`, 'meta.flush'])
  })

  it('a bit set while its block is being written makes the block dirty again', () => {
    const world = worldOf(true)
    const bitmap = new Bitmap(100)
    bitmap.set(1, 2)
    world.store.writeBitmap(bitmap, 'changed')
    world.orders()
    world.done()
    bitmap.set(3, 4)
    runAll(world)
    assert.equal(bitmap.dirtyBlocks, 1)
  })

  it('log block: changed bitmap blocks of what is dropped first, then the log', () => {
    const world = worldOf(true)
    const bitmap = new Bitmap(3 * 32768)
    bitmap.set(0, 1)
    bitmap.set(32768, 32769)
    let done = false
    const block = (): Uint8Array => new Uint8Array(4096)
    world.store.writeLogBlock(bitmap, [1, 2], 8192, block, () => {
      done = true
    })
    const log = `write ${layout.activityLogOffsetBytes + 8192}+4096`
    assert.deepEqual(runAll(world), ['disk.flush', `write ${BITMAP + 4096}+4096`, 'meta.flush', log, 'meta.flush'])
    assert.equal(done, true)
    assert.equal(bitmap.dirtyBlocks, 1, 'block 0 was not asked for')
  })

  it('log block that evicts: the data device is flushed first, and the metadata device if it is another one', () => {
    for (const [external, flushes] of [
      [true, ['disk.flush', 'meta.flush']],
      [false, ['disk.flush']],
    ] as const) {
      const world = worldOf(external)
      world.store.writeLogBlock(
        new Bitmap(100),
        [0],
        0,
        () => new Uint8Array(4096),
        () => {},
      )
      assert.deepEqual(runAll(world), [...flushes, `write ${layout.activityLogOffsetBytes}+4096`, 'meta.flush'])
    }
  })

  it('log block that only adds extents: no flush in front of it', () => {
    for (const external of [true, false]) {
      const world = worldOf(external)
      world.store.writeLogBlock(
        new Bitmap(100),
        [],
        0,
        () => new Uint8Array(4096),
        () => {},
      )
      assert.deepEqual(runAll(world), [`write ${layout.activityLogOffsetBytes}+4096`, 'meta.flush'])
    }
  })

  it('jobs run one after the other, in order', () => {
    const world = worldOf(true)
    const order: string[] = []
    world.store.writeSuperblock(() => order.push('superblock'))
    world.store.whenWritten(() => order.push('all'))
    assert.deepEqual(order, [])
    runAll(world)
    assert.deepEqual(order, ['superblock', 'all'])
  })

  it('an error ends the job at once, is reported, and the next job runs', () => {
    const world = worldOf(true)
    const errors: unknown[] = []
    world.store.writeSuperblock((error) => errors.push(error))
    world.store.whenWritten(() => errors.push('next'))
    world.orders()
    world.done()
    world.orders()
    world.done(IO_ERROR)
    assert.deepEqual(world.orders(), [], 'no flush after a write that failed')
    assert.deepEqual(errors, [IO_ERROR, 'next'])
    assert.deepEqual(world.errors, [IO_ERROR])
  })

  it('after close nothing is written, and whoever waited or asks is told so', () => {
    const world = worldOf(true)
    const told: unknown[] = []
    world.store.writeSuperblock((error) => void told.push(error?.code))
    world.orders()
    world.store.close()
    assert.deepEqual([...told], ['gone'])
    world.done()
    world.store.writeSuperblock((error) => void told.push(error?.code))
    assert.deepEqual(world.orders(), [])
    assert.deepEqual([...told], ['gone', 'gone'])
  })
})

describe('attach', () => {
  it('reads superblock, log and bitmap; the magic says "unclean" on disk before the disk is in use', () => {
    const host = new EngineHost()
    host.hold = (job) => job.text === 'meta.write superblock'
    host.event({ type: 'admin', id: 1, command: { type: 'attach', volume: 0 } })
    assert.deepEqual(host.take('meta.read'), ['meta.read superblock', 'meta.read log', 'meta.read bitmap'])
    assert.equal(host.volume.status().disk, 'Attaching')
    assert.equal(host.results.size, 0)
    host.completeAll()
    assert.equal(host.results.get(1)?.code, 0)
    assert.equal(host.volume.status().disk, 'UpToDate')
    assert.equal(host.superblock.magic, MD_MAGIC_UNCLEAN)
    assert.equal(host.superblock.flags & MDF_AL_CLEAN, 0)
  })

  it('a crashed Primary: its hot extents are out of sync, also on disk', () => {
    const first = new EngineHost({ volumes: [{ dataSectors: 8192 * 4 }] })
    first.attach()
    first.promote()
    first.write(8192, sectorsOf(8, 1))
    const second = new EngineHost({ volumes: [{ dataSectors: 8192 * 4 }] })
    // The devices of the first one as a crash leaves them.
    const { data, meta } = first.diskAt(0)
    second.disks[0] = { data, meta }
    second.attach()
    assert.equal(second.volume.bitmap?.count, 1024, 'the 4 MiB of one extent')
    assert.equal(second.volume.crashedPrimary, true)
    assert.equal(
      meta.read(layout.bitmapOffsetBytes + 128, 128).every((byte) => byte === 0xff),
      true,
    )
  })

  it('never attached before: size and a full bitmap are on disk first', () => {
    const host = new EngineHost({ volumes: [{ superblock: 'fresh' }] })
    host.attach()
    assert.equal(host.superblock.laSizeSectors, 2048)
    assert.equal(host.volume.bitmap?.count, 256)
    assert.equal(host.volume.status().disk, 'Inconsistent')
    const writes = host.take('meta.write')
    assert.deepEqual(writes.slice(-2), ['meta.write bitmap', 'meta.write superblock'])
  })

  for (const area of ['superblock', 'log', 'bitmap']) {
    it(`an error while reading the ${area} refuses the attach and closes the devices`, () => {
      const host = new EngineHost()
      host.hold = (job) => job.text === `meta.read ${area}`
      host.event({ type: 'admin', id: 1, command: { type: 'attach', volume: 0 } })
      host.complete('meta.read', IO_ERROR)
      assert.equal(host.results.get(1)?.code, 118)
      assert.equal(host.volume.status().disk, 'Diskless')
      assert.deepEqual(host.take('devices'), ['devices.open', 'devices.close'])
    })
  }

  it('no metadata: a typed refusal with the number of the driver', () => {
    const host = new EngineHost()
    host.diskAt(0).meta.zero(0, 4096)
    const result = host.admin({ type: 'attach', volume: 0 })
    assert.equal(result?.code, 119)
    assert.equal(host.volume.status().disk, 'Diskless')
  })
})
