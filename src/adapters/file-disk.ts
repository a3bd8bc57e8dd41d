// The Disk port on a regular file or a block device, through the page cache. Opening and claiming: open-device.ts.
//
// Where an operation is done (all figures: ext4, this machine's page cache, median):
//   read, small     preadv2(RWF_NOWAIT), 1.2 us, as fast as fs.readSync: never waits, says EAGAIN if not cached; then the
//                   thread pool. Where the file system lacks it (tmpfs): fs.readSync behind a SyncGate.
//   write, small    fs.writeSync behind a SyncGate, 7 us (thread pool: 75 us alone, 11 us of a batch).
//   large           thread pool: a copy of 1 MiB would hold up the event loop for 170 us.
//   flush, zero     thread pool, always: they wait for the disk by nature.
// Completions of synchronous operations are delivered together at the end of the turn (turn-end.ts), those of the pool
// when they come.

import { fdatasync, read as fsRead, fstatSync, write as fsWrite, readSync, writeSync } from 'node:fs'
import { performance } from 'node:perf_hooks'

import { assert } from '../base/assert.ts'
import { GIB, KIB, MIB, SECTOR_BYTES } from '../base/units.ts'
import type { Disk, DiskDone, DiskError, DiskExtent } from '../runtime/ports.ts'
import { type DiskRole, diskError } from './disk-errors.ts'
import { type OpenedDevice, openDevice } from './open-device.ts'
import { PAYLOAD_BUFFERS } from './payload-buffers.ts'
import {
  ERRNO,
  errnoName,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  loadPosix,
  type Posix,
  SEEK_DATA,
  SEEK_END,
  SEEK_HOLE,
} from './posix.ts'
import { SyncGate } from './sync-gate.ts'
import { systemCodeOf } from './system-code.ts'
import { completeAtTurnEnd, type TurnEndWorker, workAtTurnEnd } from './turn-end.ts'

export interface FileDiskOptions {
  /** Chooses between DRBD's error numbers for data and for metadata devices. Default: data. */
  readonly role?: DiskRole
  /** Several volumes of this process may open it, all with this option: external metadata in slots. */
  readonly shared?: boolean
  /** Operations of up to so many bytes may be done synchronously. Default 128 KiB, 0 = none. */
  readonly syncBytesMax?: number
  /** Do without FFI, as on a machine where it does not load. For tests. */
  readonly withoutFfi?: boolean
}

/** How often which way was taken. Plain counters since opening. */
export interface FileDiskStatistics {
  syncReads: number
  syncWrites: number
  poolReads: number
  poolWrites: number
  /** Reads that were not in the page cache. Part of `poolReads`. */
  uncachedReads: number
  /** fdatasync calls, and flushes that were answered by one of them or needed none. */
  syncCalls: number
  flushes: number
  /** Calls that zeroed natively, and bytes of zeroes written because that was not possible. */
  nativeZeroes: number
  zeroBytesWritten: number
  /** Synchronous operations that took longer than a millisecond. */
  slowOperations: number
}

export interface FileDisk extends Disk {
  readonly path: string
  readonly isBlockDevice: boolean
  readonly statistics: Readonly<FileDiskStatistics>
  /**
   * Whether the device can still be found where it was opened, with its size: cheap (two system calls), for a look every
   * few seconds. Operations notice a truncation when they fail and at each flush, but a deletion only by this.
   */
  verifyStillThere(): DiskError | undefined
  /** Calls back when the disk, closed before or later, has given up its claim and may be opened again. */
  whenReleased(call: () => void): void
}

const SYNC_BYTES_MAX_DEFAULT = 128 * KIB
/** How much one call zeroes, so that it does not hold a pool thread for long: holes are cheap, BLKZEROOUT may write. */
const ZERO_FILE_BYTES_MAX = GIB
const ZERO_BLOCK_BYTES_MAX = 64 * MIB
/** One write of zeroes where nothing native works. */
const ZERO_WRITE_BYTES_MAX = MIB

type ZeroMethod = 'punch-hole' | 'zero-range' | 'block-zero-out'
const ZEROES = new Uint8Array(ZERO_WRITE_BYTES_MAX)

/** Throws DiskOpenError, with DRBD's number in `details.drbdCode`. */
export function openFileDisk(path: string, options: FileDiskOptions = {}): FileDisk {
  const posix = options.withoutFfi === true ? undefined : loadPosix()
  const device = openDevice({ path, role: options.role ?? 'data', shared: options.shared ?? false, posix })
  return new OpenFileDisk(device, posix, options.syncBytesMax ?? SYNC_BYTES_MAX_DEFAULT)
}

class OpenFileDisk implements FileDisk, TurnEndWorker {
  readonly path: string
  readonly isBlockDevice: boolean
  readonly sizeBytes: number
  readonly discardZeroes: boolean
  readonly #device: OpenedDevice
  readonly #fd: number
  readonly #posix: Posix | undefined
  readonly #syncBytesMax: number
  readonly #logicalBlockBytes: number
  readonly #readGate = new SyncGate()
  readonly #writeGate = new SyncGate()
  /** While a flush runs a write may wait for the file system's journal: another matter, judged on its own. */
  readonly #writeInFlushGate = new SyncGate()
  /** Addresses of the array buffers that were read into. */
  readonly #addresses = new WeakMap<ArrayBufferLike, number>()
  readonly #statistics: FileDiskStatistics = {
    syncReads: 0,
    syncWrites: 0,
    poolReads: 0,
    poolWrites: 0,
    uncachedReads: 0,
    syncCalls: 0,
    flushes: 0,
    nativeZeroes: 0,
    zeroBytesWritten: 0,
    slowOperations: 0,
  }
  readonly #zeroMethodsMissing = new Set<ZeroMethod>()
  readonly #releaseCalls: (() => void)[] = []
  #readsCached: boolean
  #closed = false
  #released = false
  /** Operations in the thread pool: the descriptor must not be closed, and its number reused, under them. */
  #inPool = 0
  /** Operations that changed the device, or may have, since opening; and how many of them the last good flush covers. */
  #changes = 1
  /** Small writes submitted in this turn, not done yet. */
  #submitted: { readonly offsetBytes: number; readonly data: Uint8Array; readonly done: DiskDone }[] = []
  #changesFlushed = 0
  #syncRunning = false
  #flushesWaiting: DiskDone[] = []
  /** Once the device was found truncated: data is lost, whatever the file may grow to again. */
  #gone: DiskError | undefined

  constructor(device: OpenedDevice, posix: Posix | undefined, syncBytesMax: number) {
    this.#device = device
    this.#fd = device.fd
    this.path = device.path
    this.isBlockDevice = device.isBlockDevice
    this.sizeBytes = device.sizeBytes
    this.#posix = posix
    this.#syncBytesMax = syncBytesMax
    this.#readsCached = posix !== undefined
    const blockBytes = this.isBlockDevice ? (posix?.logicalBlockBytes(this.#fd) ?? 0) : 0
    // File systems zero any range; and without FFI nothing is zeroed natively.
    this.#logicalBlockBytes = blockBytes > 0 ? blockBytes : 1
    this.discardZeroes = this.#probeDiscardZeroes()
  }

  get statistics(): Readonly<FileDiskStatistics> {
    this.#statistics.slowOperations = [this.#readGate, this.#writeGate, this.#writeInFlushGate].reduce(
      (sum, gate) => sum + gate.slowCount,
      0,
    )
    return this.#statistics
  }

  get closed(): boolean {
    return this.#closed
  }

  // ---- read -----------------------------------------------------------------------------------------------------------

  read(offsetBytes: number, lengthBytes: number, done: DiskDone): void {
    if (!this.#accepts(offsetBytes, lengthBytes, done)) return
    const buffer = PAYLOAD_BUFFERS.take(lengthBytes)
    let readBytes = 0
    if (lengthBytes <= this.#syncBytesMax) {
      readBytes = this.#readsCached ? this.#readCached(buffer, offsetBytes) : this.#readGated(buffer, offsetBytes)
      if (readBytes === lengthBytes) {
        this.#statistics.syncReads++
        completeAtTurnEnd(this, done, undefined, buffer)
        return
      }
    }
    this.#statistics.poolReads++
    this.#readInPool(buffer, readBytes, offsetBytes, done)
  }

  /** Gives the bytes read, 0 if the rest is for the pool. */
  #readCached(buffer: Uint8Array, offsetBytes: number): number {
    const posix = this.#posix as Posix
    let address = this.#addresses.get(buffer.buffer)
    if (address === undefined) {
      address = posix.addressOf(buffer) - buffer.byteOffset
      this.#addresses.set(buffer.buffer, address)
    }
    const result = posix.readCached(this.#fd, address + buffer.byteOffset, buffer.length, offsetBytes)
    if (result >= 0) return result
    if (result === -ERRNO.EAGAIN) this.#statistics.uncachedReads++
    // This file system or kernel has no such read. Any other error will come again in the pool, and be reported.
    else if (result === -ERRNO.EOPNOTSUPP || result === -ERRNO.ENOSYS || result === -ERRNO.EINVAL) {
      this.#readsCached = false
    }
    return 0
  }

  #readGated(buffer: Uint8Array, offsetBytes: number): number {
    const startMs = performance.now()
    if (!this.#readGate.allows(startMs)) return 0
    let readBytes = 0
    try {
      readBytes = readSync(this.#fd, buffer, 0, buffer.length, offsetBytes)
    } catch {
      return 0 // comes again in the pool, and is reported
    }
    this.#readGate.note(startMs, performance.now())
    return readBytes
  }

  #readInPool(buffer: Uint8Array, fromBytes: number, offsetBytes: number, done: DiskDone): void {
    this.#inPool++
    fsRead(this.#fd, buffer, fromBytes, buffer.length - fromBytes, offsetBytes + fromBytes, (error, readBytes) => {
      if (!this.#leavePool()) return
      const what = `read of ${buffer.length} bytes at ${offsetBytes}`
      if (error !== null) done(this.#failure(what, systemCodeOf(error)))
      else if (readBytes === 0 && buffer.length > 0) done(this.#failure(what, 'no data there'))
      else if (fromBytes + readBytes < buffer.length) this.#readInPool(buffer, fromBytes + readBytes, offsetBytes, done)
      else done(undefined, buffer)
    })
  }

  // ---- write ----------------------------------------------------------------------------------------------------------

  write(offsetBytes: number, data: Uint8Array, done: DiskDone): void {
    if (!this.#accepts(offsetBytes, data.length, done)) return
    if (data.length <= this.#syncBytesMax) {
      // Done when the turn ends, after the links have sent: the peer writes while we do.
      if (this.#submitted.length === 0) workAtTurnEnd(this)
      this.#submitted.push({ offsetBytes, data, done })
      return
    }
    this.#statistics.poolWrites++
    this.#writeInPool(offsetBytes, data, 0, done)
  }

  /** The small writes of this turn. */
  onTurnEndWork(): void {
    const submitted = this.#submitted
    this.#submitted = []
    for (const { offsetBytes, data, done } of submitted) {
      if (this.#closed) return
      const writtenBytes = this.#writeGated(offsetBytes, data)
      if (writtenBytes === data.length) {
        this.#statistics.syncWrites++
        this.#changes++
        completeAtTurnEnd(this, done)
      } else {
        this.#statistics.poolWrites++
        this.#writeInPool(offsetBytes, data, writtenBytes, done)
      }
    }
  }

  #writeGated(offsetBytes: number, data: Uint8Array): number {
    const gate = this.#syncRunning ? this.#writeInFlushGate : this.#writeGate
    const startMs = performance.now()
    if (!gate.allows(startMs)) return 0
    let writtenBytes = 0
    try {
      writtenBytes = writeSync(this.#fd, data, 0, data.length, offsetBytes)
    } catch {
      return 0 // comes again in the pool, and is reported
    }
    gate.note(startMs, performance.now())
    return writtenBytes
  }

  #writeInPool(offsetBytes: number, data: Uint8Array, fromBytes: number, done: DiskDone): void {
    this.#inPool++
    fsWrite(this.#fd, data, fromBytes, data.length - fromBytes, offsetBytes + fromBytes, (error, writtenBytes) => {
      this.#changes++
      if (!this.#leavePool()) return
      const what = `write of ${data.length} bytes at ${offsetBytes}`
      if (error !== null) done(this.#failure(what, systemCodeOf(error)))
      else if (writtenBytes === 0 && data.length > 0) done(this.#failure(what, 'nothing was written'))
      else if (fromBytes + writtenBytes < data.length) {
        this.#writeInPool(offsetBytes, data, fromBytes + writtenBytes, done)
      } else done(undefined)
    })
  }

  // ---- flush ----------------------------------------------------------------------------------------------------------

  flush(done: DiskDone): void {
    if (!this.#accepts(0, 0, done)) return
    this.#statistics.flushes++
    if (!this.#syncRunning && this.#changes === this.#changesFlushed) {
      // Nothing has changed since the last flush began: what was completed before is durable.
      completeAtTurnEnd(this, done)
      return
    }
    // One fdatasync answers all flushes that wait for its start, however many clients sent them.
    this.#flushesWaiting.push(done)
    if (!this.#syncRunning) this.#startSync()
  }

  #startSync(): void {
    const flushes = this.#flushesWaiting
    const changes = this.#changes
    this.#flushesWaiting = []
    this.#syncRunning = true
    this.#statistics.syncCalls++
    this.#inPool++
    fdatasync(this.#fd, (error) => {
      this.#syncRunning = false
      if (!this.#leavePool()) return
      const problem = error === null ? this.#checkSize() : this.#failure('flush', systemCodeOf(error))
      if (problem === undefined) this.#changesFlushed = changes
      if (this.#flushesWaiting.length > 0) this.#startSync()
      for (const done of flushes) if (!this.#closed) done(problem)
    })
  }

  // ---- zero -----------------------------------------------------------------------------------------------------------

  zero(offsetBytes: number, lengthBytes: number, unmap: boolean, done: DiskDone): void {
    if (!this.#accepts(offsetBytes, lengthBytes, done)) return
    if (lengthBytes === 0 || (unmap && this.isHole(offsetBytes, lengthBytes))) {
      completeAtTurnEnd(this, done)
    } else if (!unmap && lengthBytes <= this.#syncBytesMax) {
      // A small range that stays allocated: writing is quicker than changing the file's extents.
      this.#statistics.zeroBytesWritten += lengthBytes
      this.write(offsetBytes, ZEROES.subarray(0, lengthBytes), done)
    } else {
      this.#zeroNext(offsetBytes, offsetBytes + lengthBytes, unmap, done)
    }
  }

  /** Zeroes a piece and goes on until `endBytes`. */
  #zeroNext(offsetBytes: number, endBytes: number, unmap: boolean, done: DiskDone): void {
    const method = this.#zeroMethod(offsetBytes, endBytes, unmap)
    if (method === undefined) {
      this.#zeroByWriting(offsetBytes, endBytes, unmap, done)
      return
    }
    const bytesMax = this.isBlockDevice ? ZERO_BLOCK_BYTES_MAX : ZERO_FILE_BYTES_MAX
    const lengthBytes = Math.min(endBytes - offsetBytes, bytesMax)
    this.#inPool++
    this.#zeroNatively(method, offsetBytes, lengthBytes, (result) => {
      this.#changes++
      if (!this.#leavePool()) return
      if (result === 0) {
        this.#statistics.nativeZeroes++
        if (offsetBytes + lengthBytes === endBytes) done(this.#checkSize())
        else this.#zeroNext(offsetBytes + lengthBytes, endBytes, unmap, done)
      } else if (isUnsupported(result)) {
        this.#zeroMethodsMissing.add(method)
        this.#zeroNext(offsetBytes, endBytes, unmap, done)
      } else {
        done(this.#failure(`zeroing of ${lengthBytes} bytes at ${offsetBytes}`, errnoName(result)))
      }
    })
  }

  #zeroMethod(offsetBytes: number, endBytes: number, unmap: boolean): ZeroMethod | undefined {
    if (this.#posix === undefined) return undefined
    // The block layer zeroes whole logical blocks only; on a 4 KiB device the rest goes through the page cache.
    const blockBytes = this.#logicalBlockBytes
    if (offsetBytes % blockBytes !== 0 || endBytes % blockBytes !== 0) return undefined
    const preferred: ZeroMethod = unmap ? 'punch-hole' : 'zero-range'
    if (!this.#zeroMethodsMissing.has(preferred)) return preferred
    return this.isBlockDevice && !this.#zeroMethodsMissing.has('block-zero-out') ? 'block-zero-out' : undefined
  }

  /**
   * On a block device PUNCH_HOLE is the discard that guarantees zeroes (it fails where the device cannot promise them) and
   * ZERO_RANGE the zeroing that keeps the space; BLKZEROOUT writes if need be. A plain BLKDISCARD guarantees nothing.
   */
  #zeroNatively(method: ZeroMethod, offsetBytes: number, lengthBytes: number, done: (result: number) => void): void {
    const posix = this.#posix as Posix
    const mode = FALLOC_FL_KEEP_SIZE | (method === 'punch-hole' ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE)
    if (method === 'block-zero-out') posix.blockZeroOut(this.#fd, offsetBytes, lengthBytes, done)
    else posix.fallocate(this.#fd, mode, offsetBytes, lengthBytes, done)
  }

  #zeroByWriting(offsetBytes: number, endBytes: number, unmap: boolean, done: DiskDone): void {
    const lengthBytes = Math.min(endBytes - offsetBytes, ZERO_WRITE_BYTES_MAX)
    this.#statistics.zeroBytesWritten += lengthBytes
    this.#writeInPool(offsetBytes, ZEROES.subarray(0, lengthBytes), 0, (error) => {
      if (error !== undefined || offsetBytes + lengthBytes === endBytes) done(error)
      else this.#zeroNext(offsetBytes + lengthBytes, endBytes, unmap, done)
    })
  }

  /** Regular files: whether holes can be punched, tried behind the end of the file, where there is nothing to lose. */
  #probeDiscardZeroes(): boolean {
    if (this.#posix === undefined) return false
    if (this.isBlockDevice) return this.#posix.blockDiscardZeroes(this.#fd)
    const behindEnd = Math.ceil(fstatSync(this.#fd).size / MIB) * MIB + MIB
    const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    return this.#posix.fallocateNow(this.#fd, mode, behindEnd, 4 * KIB) === 0
  }

  // ---- holes ----------------------------------------------------------------------------------------------------------

  isHole(offsetBytes: number, lengthBytes: number): boolean {
    this.#checkRange(offsetBytes, lengthBytes)
    if (this.#gone !== undefined) return false
    if (this.#posix === undefined || this.isBlockDevice) return false
    return this.#seekData(offsetBytes) >= offsetBytes + lengthBytes
  }

  extents(offsetBytes: number, lengthBytes: number, extentsMax: number): DiskExtent[] {
    this.#checkRange(offsetBytes, lengthBytes)
    const extents: DiskExtent[] = []
    const endBytes = offsetBytes + lengthBytes
    let atBytes = offsetBytes
    while (atBytes < endBytes && extents.length < extentsMax) {
      const dataBytes = Math.min(this.#seekData(atBytes), endBytes)
      if (dataBytes > atBytes) {
        extents.push({ lengthBytes: dataBytes - atBytes, hole: true })
        atBytes = dataBytes
      } else {
        const holeBytes = Math.min(this.#seekHole(atBytes), endBytes)
        extents.push({ lengthBytes: holeBytes - atBytes, hole: false })
        atBytes = holeBytes
      }
    }
    return extents
  }

  /** Where data begins at or after an offset, in whole sectors; the offset itself if it is not known. */
  #seekData(offsetBytes: number): number {
    if (this.#posix === undefined || this.isBlockDevice) return offsetBytes
    const result = this.#posix.seek(this.#fd, offsetBytes, SEEK_DATA)
    if (result >= 0) return Math.max(offsetBytes, result - (result % SECTOR_BYTES))
    // No data up to the end of the file; unless the file has been truncated, then nothing is known.
    if (result !== -ERRNO.ENXIO) return offsetBytes
    return this.#posix.seek(this.#fd, 0, SEEK_END) >= this.sizeBytes ? this.sizeBytes : offsetBytes
  }

  /** Where the next hole begins, at least one sector on: for data at the offset. */
  #seekHole(offsetBytes: number): number {
    if (this.#posix === undefined || this.isBlockDevice) return this.sizeBytes
    const result = this.#posix.seek(this.#fd, offsetBytes, SEEK_HOLE)
    if (result < 0) return this.sizeBytes
    return Math.max(offsetBytes + SECTOR_BYTES, Math.ceil(result / SECTOR_BYTES) * SECTOR_BYTES)
  }

  // ---- the device itself ----------------------------------------------------------------------------------------------

  verifyStillThere(): DiskError | undefined {
    assert(!this.#closed, 'the disk is closed')
    if (this.#checkSize() !== undefined) return this.#gone
    const why = this.#device.whyNotThere()
    return why === undefined ? undefined : { code: 'gone', message: `${this.path}: ${why}` }
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    if (this.#inPool === 0) this.#release()
  }

  whenReleased(call: () => void): void {
    if (this.#released) setImmediate(call)
    else this.#releaseCalls.push(call)
  }

  #release(): void {
    this.#device.removeUser(() => {
      this.#released = true
      for (const call of this.#releaseCalls) setImmediate(call)
    })
  }

  /** To be called first in each completion from the pool. False: the disk is closed, complete nothing. */
  #leavePool(): boolean {
    this.#inPool--
    if (!this.#closed) return true
    if (this.#inPool === 0) this.#release()
    return false
  }

  #failure(what: string, systemCode: string | undefined): DiskError {
    return this.#checkSize() ?? diskError(this.path, what, systemCode)
  }

  /** One cheap system call. A device that is smaller than when it was opened has lost data: all later operations fail. */
  #checkSize(): DiskError | undefined {
    if (this.#gone !== undefined) return this.#gone
    const sizeBytes = this.#device.sizeBytesNow()
    if (sizeBytes >= this.sizeBytes) return undefined
    const message = `${this.path}: had ${this.sizeBytes} bytes when it was opened, now it has ${sizeBytes}`
    this.#gone = { code: 'gone', message }
    return this.#gone
  }

  /** False: nothing is to be done. A closed disk completes nothing; one that is gone fails everything. */
  #accepts(offsetBytes: number, lengthBytes: number, done: DiskDone): boolean {
    if (this.#closed) return false
    this.#checkRange(offsetBytes, lengthBytes)
    if (this.#gone === undefined) return true
    completeAtTurnEnd(this, done, this.#gone)
    return false
  }

  #checkRange(offsetBytes: number, lengthBytes: number): void {
    assert(!this.#closed, 'the disk is closed')
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes,
      `${lengthBytes} bytes at ${offsetBytes} are not inside a disk of ${this.sizeBytes} bytes`,
    )
    assert(
      offsetBytes % SECTOR_BYTES === 0 && lengthBytes % SECTOR_BYTES === 0,
      `${lengthBytes} bytes at ${offsetBytes} are not whole sectors`,
    )
  }
}

/** EINVAL: what an older kernel says of a mode that it does not know. */
function isUnsupported(result: number): boolean {
  return (
    result === -ERRNO.EOPNOTSUPP || result === -ERRNO.ENOSYS || result === -ERRNO.EINVAL || result === -ERRNO.ENOTTY
  )
}
