// The metadata of one attached volume: reads it at attach (activity log applied, checks of metadata.md section 9) and keeps
// the order in which its parts reach the disk (section 8). All writes go through one queue, a job at a time; a job's
// content is taken when the job starts, so a superblock that waits is written with its newest content, once.
//
// Durability of a job: the data device is flushed before bitmap blocks are written, because a cleared bit on disk says that
// the data is there; the metadata device is flushed before and after a superblock or log block.

import { assert } from '../base/assert.ts'
import { initialLog } from '../meta/activity-log.ts'
import { applyActivityLog } from '../meta/apply-al.ts'
import { Bitmap } from '../meta/bitmap.ts'
import {
  type AlGeometry,
  DEFAULT_AL_GEOMETRY,
  flexibleExternalLayout,
  indexedLayout,
  internalLayout,
  type MdLayout,
} from '../meta/layout.ts'
import {
  alGeometryOf,
  decodeSuperblock,
  encodeSuperblock,
  MD_MAGIC_UNCLEAN,
  MDF_CRASHED_PRIMARY,
  MDF_PRIMARY_IND,
  type Superblock,
  verifySuperblock,
} from '../meta/superblock.ts'
import type { DiskError } from '../runtime/ports.ts'
import type { DiskOp, Effect } from './effects.ts'
import type { OpenedDevices } from './events.ts'

const META_BLOCK_BYTES = 4096
/** Neighbouring bitmap blocks are written together up to this size. */
const BITMAP_WRITE_BLOCKS_MAX = 256

const GIVEN_UP: DiskError = { code: 'gone', message: 'the disk was given up' }

export type MetaStep =
  | { readonly kind: 'write'; readonly offsetBytes: number; readonly data: Uint8Array }
  | { readonly kind: 'flush-meta' }
  | { readonly kind: 'flush-data' }

interface Job {
  /** Called when the job begins. */
  readonly steps: () => MetaStep[]
  readonly done: ((error: DiskError | undefined) => void)[]
  readonly superblock: boolean
}

export interface MetadataHost {
  readonly volumeNumber: number
  emit(effect: Effect): void
  /** A metadata write failed: the disk cannot be trusted any more. */
  onMetadataError(error: DiskError): void
  /** The superblock as it is to be written now. */
  currentSuperblock(): Superblock
  bitmapWritten(blocks: number): void
}

export class MetadataStore implements DiskOp {
  readonly layout: MdLayout
  readonly geometry: AlGeometry
  readonly #host: MetadataHost
  readonly #external: boolean
  readonly #queue: Job[] = []
  #steps: MetaStep[] = []
  #stepIndex = 0
  #running: Job | undefined
  #closed = false

  constructor(host: MetadataHost, layout: MdLayout, geometry: AlGeometry, external: boolean) {
    this.#host = host
    this.layout = layout
    this.geometry = geometry
    this.#external = external
  }

  /** Nothing is written after it; what is running completes into the void, and all that waited is told so. */
  close(): void {
    this.#closed = true
    const abandoned = this.#running === undefined ? this.#queue.splice(0) : [this.#running, ...this.#queue.splice(0)]
    this.#running = undefined
    for (const job of abandoned) for (const done of job.done) done(GIVEN_UP)
  }

  get idle(): boolean {
    return this.#running === undefined && this.#queue.length === 0
  }

  /** Writes the superblock, durably; requests that wait are joined into one write. */
  writeSuperblock(done?: (error: DiskError | undefined) => void): void {
    const waiting = this.#queue.find((job) => job.superblock)
    if (waiting !== undefined && waiting === this.#queue[this.#queue.length - 1]) {
      if (done !== undefined) waiting.done.push(done)
      return
    }
    this.#enqueue({
      steps: () => [
        { kind: 'flush-meta' },
        {
          kind: 'write',
          offsetBytes: this.layout.superblockOffsetBytes,
          data: encodeSuperblock(this.#host.currentSuperblock()),
        },
        { kind: 'flush-meta' },
      ],
      done: done === undefined ? [] : [done],
      superblock: true,
    })
  }

  /** Writes all changed bitmap blocks (or all blocks), durably. */
  writeBitmap(bitmap: Bitmap, which: 'changed' | 'all', done?: (error: DiskError | undefined) => void): void {
    this.#enqueue({
      steps: () => {
        const blocks = bitmap.takeDirtyBlocks()
        const all = which === 'all' ? Array.from({ length: bitmap.diskBytes / META_BLOCK_BYTES }, (_, i) => i) : blocks
        return this.#bitmapSteps(bitmap, all)
      },
      done: done === undefined ? [] : [done],
      superblock: false,
    })
  }

  /**
   * Writes one activity-log block, durably; if it evicts extents, after the changed bitmap blocks among `evictedBlocks` and
   * after all data writes completed so far. `block` is called when the job starts.
   */
  writeLogBlock(
    bitmap: Bitmap,
    evictedBlocks: readonly number[],
    offsetInLogBytes: number,
    block: () => Uint8Array,
    done: (error: DiskError | undefined) => void,
  ): void {
    this.#enqueue({
      steps: () => {
        const changed = evictedBlocks.filter((index) => bitmap.blockIsDirty(index))
        for (const index of changed) bitmap.markClean(index)
        const steps = this.#bitmapSteps(bitmap, changed)
        // What the log forgets has to be durable before: data of the evicted extents, and their bitmap blocks. A block that
        // only adds extents needs no flush in front, which would write out all that clients have written meanwhile.
        if (steps.length === 0 && evictedBlocks.length > 0) {
          steps.push({ kind: 'flush-data' })
          if (this.#external) steps.push({ kind: 'flush-meta' })
        }
        steps.push({ kind: 'write', offsetBytes: this.layout.activityLogOffsetBytes + offsetInLogBytes, data: block() })
        steps.push({ kind: 'flush-meta' })
        return steps
      },
      done: [done],
      superblock: false,
    })
  }

  /** Initialises the whole log, durably. */
  writeInitialLog(done?: (error: DiskError | undefined) => void): void {
    this.#enqueue({
      steps: () => [
        { kind: 'write', offsetBytes: this.layout.activityLogOffsetBytes, data: initialLog(this.geometry) },
        { kind: 'flush-meta' },
      ],
      done: done === undefined ? [] : [done],
      superblock: false,
    })
  }

  /** Calls `done` when everything queued so far is on disk. */
  whenWritten(done: (error: DiskError | undefined) => void): void {
    this.#enqueue({ steps: () => [], done: [done], superblock: false })
  }

  onDisk(error: DiskError | undefined): void {
    if (this.#closed) return
    if (error !== undefined) {
      this.#finish(error)
      return
    }
    this.#next()
  }

  #bitmapSteps(bitmap: Bitmap, blocks: readonly number[]): MetaStep[] {
    if (blocks.length === 0) return []
    const steps: MetaStep[] = [{ kind: 'flush-data' }]
    let first = 0
    while (first < blocks.length) {
      let last = first + 1
      while (
        last < blocks.length &&
        last - first < BITMAP_WRITE_BLOCKS_MAX &&
        blocks[last] === (blocks[last - 1] as number) + 1
      )
        last++
      const data = new Uint8Array((last - first) * META_BLOCK_BYTES)
      for (let i = first; i < last; i++) data.set(bitmap.block(blocks[i] as number), (i - first) * META_BLOCK_BYTES)
      steps.push({
        kind: 'write',
        offsetBytes: this.layout.bitmapOffsetBytes + (blocks[first] as number) * META_BLOCK_BYTES,
        data,
      })
      first = last
    }
    steps.push({ kind: 'flush-meta' })
    this.#host.bitmapWritten(blocks.length)
    return steps
  }

  #enqueue(job: Job): void {
    if (this.#closed) {
      for (const done of job.done) done(GIVEN_UP)
      return
    }
    this.#queue.push(job)
    if (this.#running === undefined) this.#startNextJob()
  }

  #startNextJob(): void {
    const job = this.#queue.shift()
    this.#running = job
    if (job === undefined) return
    this.#steps = job.steps()
    this.#stepIndex = 0
    this.#next()
  }

  #next(): void {
    const step = this.#steps[this.#stepIndex++]
    if (step === undefined) {
      this.#finish(undefined)
      return
    }
    const volume = this.#host.volumeNumber
    switch (step.kind) {
      case 'write':
        this.#host.emit({ type: 'meta.write', volume, offsetBytes: step.offsetBytes, data: step.data, op: this })
        break
      case 'flush-meta':
        this.#host.emit({ type: 'meta.flush', volume, op: this })
        break
      case 'flush-data':
        this.#host.emit({ type: 'disk.flush', volume, op: this })
        break
    }
  }

  #finish(error: DiskError | undefined): void {
    const job = this.#running
    assert(job !== undefined, 'a metadata completion belongs to a running job')
    this.#running = undefined
    if (error !== undefined) this.#host.onMetadataError(error)
    for (const done of job.done) done(error)
    // A callback may have closed the store, or have queued a job and so started the next one.
    if (!this.#closed && this.#running === undefined) this.#startNextJob()
  }
}

// ---- attach ---------------------------------------------------------------------------------------------------------

export interface AttachedMetadata {
  readonly layout: MdLayout
  readonly geometry: AlGeometry
  readonly superblock: Superblock
  /** Bits in use on disk, activity log applied. */
  readonly bitmapBytes: Uint8Array
  /** Sectors that the backing device can offer. */
  readonly usableSectors: number
  /** Extents that the activity log named and that were marked out of sync. */
  readonly hotExtents: readonly number[]
}

/**
 * Reads and repairs the metadata at attach: superblock, log, bitmap; applies the log of a crashed Primary; writes the
 * result back. `done` gets an AppError of meta/, or the disk's error.
 */
export class MetadataReader implements DiskOp {
  readonly #volume: number
  readonly #devices: OpenedDevices
  readonly #emit: (effect: Effect) => void
  readonly #done: (error: Error | undefined, result?: AttachedMetadata) => void
  #phase: 'superblock' | 'log' | 'bitmap' | 'writing' = 'superblock'
  #superblock: Superblock | undefined
  #log: Uint8Array = new Uint8Array(0)
  #geometry: AlGeometry = DEFAULT_AL_GEOMETRY
  #layout: MdLayout
  #writes: MetaStep[] = []
  #result: AttachedMetadata | undefined

  constructor(
    volume: number,
    devices: OpenedDevices,
    emit: (effect: Effect) => void,
    done: (error: Error | undefined, result?: AttachedMetadata) => void,
  ) {
    this.#volume = volume
    this.#devices = devices
    this.#emit = emit
    this.#done = done
    this.#layout = metadataLayout(devices, DEFAULT_AL_GEOMETRY)
  }

  start(): void {
    this.#read(this.#layout.superblockOffsetBytes, META_BLOCK_BYTES)
  }

  onDisk(error: DiskError | undefined, data: Uint8Array | undefined): void {
    if (error !== undefined) {
      this.#done(new Error(error.message))
      return
    }
    try {
      this.#advance(data ?? new Uint8Array(0))
    } catch (cause) {
      this.#done(cause as Error)
    }
  }

  #advance(data: Uint8Array): void {
    switch (this.#phase) {
      case 'superblock':
        this.#onSuperblock(data)
        break
      case 'log':
        this.#log = data
        this.#phase = 'bitmap'
        this.#read(this.#layout.bitmapOffsetBytes, this.#bitmapBytes())
        break
      case 'bitmap':
        this.#onBitmap(data)
        break
      case 'writing':
        this.#writeNext()
        break
    }
  }

  #onSuperblock(data: Uint8Array): void {
    const superblock = decodeSuperblock(data)
    this.#geometry = alGeometryOf(superblock)
    this.#layout = metadataLayout(this.#devices, this.#geometry)
    const usableSectors = Math.min(this.#layout.usableSectors, Math.floor(this.#devices.dataBytes / 512))
    // Unclean is the normal state of a disk that was attached before: the log is applied below.
    verifySuperblock(superblock, {
      layout: this.#layout,
      deviceBytes: this.#devices.metaBytes,
      usableSectors,
      allowUnclean: true,
    })
    this.#superblock = superblock
    this.#phase = 'log'
    this.#read(this.#layout.activityLogOffsetBytes, this.#layout.activityLogBytes)
  }

  #bitmapBytes(): number {
    const bits = Math.ceil((this.#superblock?.laSizeSectors ?? 0) / 8)
    const words = Math.ceil(bits / 64)
    const bytes = Math.ceil((words * 8) / META_BLOCK_BYTES) * META_BLOCK_BYTES
    return Math.max(META_BLOCK_BYTES, Math.min(bytes, Math.floor(this.#layout.bitmapAreaBytes / 512) * 512))
  }

  #onBitmap(data: Uint8Array): void {
    const superblock = this.#superblock
    assert(superblock !== undefined, 'the superblock is read first')
    const applied = applyActivityLog({ superblock, logBytes: this.#log, bitmapBytes: data, geometry: this.#geometry })
    this.#result = {
      layout: this.#layout,
      geometry: this.#geometry,
      superblock: applied.superblock,
      bitmapBytes: applied.bitmapBytes,
      usableSectors: Math.min(this.#layout.usableSectors, Math.floor(this.#devices.dataBytes / 512)),
      hotExtents: applied.hotExtents,
    }
    // Bitmap first, then the log that named the extents, the superblock last: setting bits twice does no harm.
    this.#phase = 'writing'
    if (applied.bitmapChanged)
      this.#writes.push({ kind: 'write', offsetBytes: this.#layout.bitmapOffsetBytes, data: applied.bitmapBytes })
    // Also if the bits are there already: an attach that failed may have left them in the cache.
    if (applied.bitmapChanged || applied.logBytes !== undefined) this.#writes.push({ kind: 'flush-meta' })
    if (applied.logBytes !== undefined) {
      // If the log is torn while it is emptied, it must not be needed any more: the bitmap has it, the crash is noted.
      const flags = superblock.flags & MDF_PRIMARY_IND ? MDF_CRASHED_PRIMARY : 0
      this.#writes.push(
        {
          kind: 'write',
          offsetBytes: this.#layout.superblockOffsetBytes,
          data: encodeSuperblock({ ...superblock, flags: (superblock.flags & ~MDF_PRIMARY_IND) | flags }),
        },
        { kind: 'flush-meta' },
        { kind: 'write', offsetBytes: this.#layout.activityLogOffsetBytes, data: applied.logBytes },
        { kind: 'flush-meta' },
      )
    }
    const unclean = encodeSuperblock({ ...applied.superblock, magic: MD_MAGIC_UNCLEAN })
    this.#writes.push(
      { kind: 'write', offsetBytes: this.#layout.superblockOffsetBytes, data: unclean },
      { kind: 'flush-meta' },
    )
    this.#writeNext()
  }

  #writeNext(): void {
    const step = this.#writes.shift()
    if (step === undefined) this.#done(undefined, this.#result)
    else if (step.kind === 'write')
      this.#emit({ type: 'meta.write', volume: this.#volume, offsetBytes: step.offsetBytes, data: step.data, op: this })
    else this.#emit({ type: 'meta.flush', volume: this.#volume, op: this })
  }

  #read(offsetBytes: number, lengthBytes: number): void {
    this.#emit({ type: 'meta.read', volume: this.#volume, offsetBytes, lengthBytes, op: this })
  }
}

function metadataLayout(devices: OpenedDevices, geometry: AlGeometry): MdLayout {
  if (devices.metaIndex === 'internal') return internalLayout(devices.metaBytes, geometry)
  if (devices.metaIndex === 'flexible') return flexibleExternalLayout(devices.metaBytes, geometry)
  return indexedLayout(devices.metaIndex)
}

/** The bitmap in memory for a device of `sectors`: what is on disk, or all ones for a device that never had a size. */
export function bitmapOf(metadata: AttachedMetadata, sectors: number): Bitmap {
  const bits = Math.ceil(sectors / 8)
  if (metadata.superblock.laSizeSectors === 0) {
    const bitmap = new Bitmap(bits)
    bitmap.setAll()
    return bitmap
  }
  return Bitmap.fromDisk(bits, metadata.bitmapBytes)
}
