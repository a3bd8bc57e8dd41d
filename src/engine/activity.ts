// The activity log in memory: which 4 MiB extents may have writes in flight ("hot"), and the transactions that make an
// extent hot before its first write (metadata.md 5.6 and 8).
//
// An extent may be dropped from its slot only when no write in it is in progress and all its writes are known to be stable
// on both hosts (`stableGeneration`): until then a crash of both could leave the two disks different there, and only the log
// would know. The bitmap block of a dropped extent goes to disk before the log forgets it.

import { assert } from '../base/assert.ts'
import { AL_FREE, AL_UPDATES_MAX, blockPosition, encodeTransaction, nextContextStart } from '../meta/activity-log.ts'
import type { Bitmap } from '../meta/bitmap.ts'
import type { DiskError } from '../runtime/ports.ts'
import type { MetadataStore } from './metadata-store.ts'

const EXTENT_SECTORS = 8192
/** One 4 KiB bitmap block holds the bits of 32 extents. */
const EXTENTS_PER_BITMAP_BLOCK = 32

/** A write that needs its extents hot. */
export interface ActivityUser {
  readonly sector: number
  readonly sectors: number
  /** The extents are hot now; a reference is held until `release`. */
  onActivityGranted(): void
  onActivityFailed(error: DiskError): void
}

export interface ActivityHost {
  readonly attached: { readonly bitmap: Bitmap; readonly store: MetadataStore }
  /** Generation in which a write that completes now counts; see flush.ts. */
  readonly writeGeneration: number
  /** All writes of this generation and older are stable on both hosts. */
  readonly stableGeneration: number
  /** Asked when nothing can be dropped because nothing is stable: flush the peer. */
  wantStable(): void
  onLogWritten(): void
}

export class ActivityLog {
  readonly #host: ActivityHost
  readonly #slots: Uint32Array
  readonly #references: Uint32Array
  readonly #lastUse: Float64Array
  readonly #generation: Float64Array
  readonly #slotOf = new Map<number, number>()
  readonly #waiting: ActivityUser[] = []
  /** Slots that the running transaction changes: neither old nor new extent counts as hot meanwhile. */
  #pending: { slot: number; extent: number }[] = []
  #transactionNumber = 0
  #contextStart = 0
  #useCounter = 0
  #closed = false

  constructor(host: ActivityHost, slots: number) {
    this.#host = host
    this.#slots = new Uint32Array(slots).fill(AL_FREE)
    this.#references = new Uint32Array(slots)
    this.#lastUse = new Float64Array(slots)
    this.#generation = new Float64Array(slots)
  }

  /** Takes a reference on the extents of a write if all are hot; else queues it and calls it back. */
  acquire(user: ActivityUser): boolean {
    if (this.#waiting.length === 0 && this.#tryReference(user)) return true
    this.#waiting.push(user)
    this.#startTransaction()
    return false
  }

  /** The write is complete on both hosts, or its blocks are marked out of sync. */
  release(user: ActivityUser): void {
    const last = lastExtent(user)
    for (let extent = firstExtent(user); extent <= last; extent++) {
      const slot = this.#slotOf.get(extent)
      assert(
        slot !== undefined && (this.#references[slot] as number) > 0,
        `extent ${extent} is released more often than taken`,
      )
      this.#references[slot] = (this.#references[slot] as number) - 1
      this.#generation[slot] = this.#host.writeGeneration
    }
    if (this.#waiting.length > 0) this.#startTransaction()
  }

  /** No write waits for its extents. */
  get quiet(): boolean {
    return this.#waiting.length === 0
  }

  /** More may be stable than before. */
  onStable(): void {
    if (this.#waiting.length > 0) this.#startTransaction()
  }

  /** Whether the extent is in the log as it is on disk (for the invariant that the simulator checks). */
  isHot(extent: number): boolean {
    return this.#slotOf.has(extent)
  }

  close(): ActivityUser[] {
    this.#closed = true
    return this.#waiting.splice(0)
  }

  #tryReference(user: ActivityUser): boolean {
    const first = firstExtent(user)
    const last = lastExtent(user)
    for (let extent = first; extent <= last; extent++) if (!this.#slotOf.has(extent)) return false
    const use = ++this.#useCounter
    for (let extent = first; extent <= last; extent++) {
      const slot = this.#slotOf.get(extent) as number
      this.#references[slot] = (this.#references[slot] as number) + 1
      this.#lastUse[slot] = use
    }
    return true
  }

  #startTransaction(): void {
    if (this.#pending.length > 0 || this.#closed) return
    this.#grant()
    if (this.#waiting.length === 0) return
    // All that waits in one transaction if there is room, else the first write alone.
    let wanted = this.#wantedExtents(this.#waiting.length)
    let victims = this.#victims(wanted.length, this.#waiting.length)
    if (victims === undefined) {
      wanted = this.#wantedExtents(1)
      victims = this.#victims(wanted.length, 1)
    }
    if (victims === undefined) {
      this.#host.wantStable()
      return
    }
    const evictedBlocks: number[] = []
    this.#pending = wanted.map((extent, i) => ({ slot: victims[i] as number, extent }))
    for (const { slot } of this.#pending) {
      const old = this.#slots[slot] as number
      if (old === AL_FREE) continue
      this.#slotOf.delete(old)
      evictedBlocks.push(Math.floor(old / EXTENTS_PER_BITMAP_BLOCK))
    }
    const unique = [...new Set(evictedBlocks)].sort((a, b) => a - b)
    const { bitmap, store } = this.#host.attached
    const position = blockPosition(this.#transactionNumber, store.geometry)
    store.writeLogBlock(
      bitmap,
      unique,
      position,
      () => this.#encode(),
      (error) => this.#onWritten(error),
    )
  }

  /** The cold extents of the writes at the head of the queue, as many as one transaction takes, whole writes only. */
  #wantedExtents(usersMax: number): number[] {
    const wanted = new Set<number>()
    for (const user of this.#waiting.slice(0, usersMax)) {
      const last = lastExtent(user)
      const cold: number[] = []
      for (let extent = firstExtent(user); extent <= last; extent++) {
        if (!this.#slotOf.has(extent) && !wanted.has(extent)) cold.push(extent)
      }
      if (wanted.size + cold.length > AL_UPDATES_MAX) break
      for (const extent of cold) wanted.add(extent)
    }
    return [...wanted]
  }

  /** Free slots from the top, then the least recently used that may be dropped; undefined if there are not `count`. */
  #victims(count: number, usersMax: number): number[] | undefined {
    const held = new Set<number>()
    for (const user of this.#waiting.slice(0, usersMax)) {
      for (let extent = firstExtent(user); extent <= lastExtent(user); extent++) {
        const slot = this.#slotOf.get(extent)
        if (slot !== undefined) held.add(slot)
      }
    }
    const free: number[] = []
    const droppable: number[] = []
    for (let slot = this.#slots.length - 1; slot >= 0 && free.length < count; slot--) {
      if (this.#slots[slot] === AL_FREE) free.push(slot)
      else if (
        this.#references[slot] === 0 &&
        (this.#generation[slot] as number) <= this.#host.stableGeneration &&
        !held.has(slot)
      ) {
        droppable.push(slot)
      }
    }
    if (free.length < count)
      droppable.sort((a, b) => (this.#lastUse[a] as number) - (this.#lastUse[b] as number) || a - b)
    const victims = free.concat(droppable).slice(0, count)
    return victims.length === count ? victims : undefined
  }

  #encode(): Uint8Array {
    return encodeTransaction({
      trNumber: this.#transactionNumber,
      slots: this.#slots,
      contextStart: this.#contextStart,
      updates: this.#pending,
    })
  }

  #onWritten(error: DiskError | undefined): void {
    const pending = this.#pending
    this.#pending = []
    if (error !== undefined) {
      for (const user of this.#waiting.splice(0)) user.onActivityFailed(error)
      return
    }
    this.#host.onLogWritten()
    this.#transactionNumber = (this.#transactionNumber + 1) >>> 0
    this.#contextStart = nextContextStart(this.#contextStart, this.#slots.length)
    for (const { slot, extent } of pending) {
      this.#slots[slot] = extent
      this.#slotOf.set(extent, slot)
      this.#generation[slot] = 0
    }
    this.#startTransaction()
  }

  /** Serves the queue in order as far as its extents are hot. */
  #grant(): void {
    while (this.#waiting.length > 0) {
      const user = this.#waiting[0] as ActivityUser
      if (!this.#tryReference(user)) return
      this.#waiting.shift()
      user.onActivityGranted()
    }
  }
}

const lastExtent = (user: { sector: number; sectors: number }): number =>
  Math.floor((user.sector + user.sectors - 1) / EXTENT_SECTORS)
const firstExtent = (user: { sector: number }): number => Math.floor(user.sector / EXTENT_SECTORS)
