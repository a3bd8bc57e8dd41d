// The Disk port in a simulated world. A device belongs to a host and outlives its processes; a process opens it and gets
// a SimDisk. Operations take a drawn time, so that they complete, and take effect, in any order. What ends how:
//
//   process crash   completed writes stay (they are in the cache); of each write in the queue any subset of its sectors
//   power cut       the same for the queue, and then the cache is lost as disk-image.ts says
//   close           the queue runs to its end, but nobody hears of it
//
// The device also checks its caller (the contract of runtime/ports.ts): overlapping operations in the queue together
// (checker `overlapping-io`), ranges outside the device or not made of sectors, and buffers changed before completion
// (checker `disk-contract`).

import type { Prng } from '../base/prng.ts'
import { SECTOR_BYTES } from '../base/units.ts'
import type { Disk, DiskDone, DiskError, DiskErrorCode, DiskExtent } from '../runtime/ports.ts'
import { PAGE_BYTES, SimDiskImage } from './disk-image.ts'
import type { Report } from './failure.ts'
import type { Life, Scheduler } from './scheduler.ts'
import { hashOf } from './trace.ts'

export interface DiskConfig {
  readonly latencyUsMin: number
  readonly latencyUsMax: number
  /** One operation in a thousand times this many takes `slowUs` instead. */
  readonly slowPerMille: number
  readonly slowUs: number
  readonly flushUsMax: number
  readonly discardZeroes: boolean
}

export const DISK_DEFAULTS: DiskConfig = {
  latencyUsMin: 20,
  latencyUsMax: 2_000,
  slowPerMille: 5,
  slowUs: 50_000,
  flushUsMax: 5_000,
  discardZeroes: true,
}

/** Operations that touch the range fail, `times` times (for ever if infinite). */
export interface DiskFault {
  readonly on: 'read' | 'write' | 'flush'
  readonly code: DiskErrorCode
  readonly offsetBytes: number
  readonly lengthBytes: number
  times: number
}

export type OperationKind = 'read' | 'write' | 'zero' | 'flush'

interface Operation {
  readonly life: Life
  readonly kind: OperationKind
  readonly offsetBytes: number
  readonly lengthBytes: number
  /** Of a write: the caller's buffer, and what it held at submission. */
  readonly data: Uint8Array | undefined
  readonly dataHash: number
  readonly unmap: boolean
  /** Of a flush: the writes that it covers. */
  readonly flushSequence: number
}

export class SimDiskDevice {
  readonly name: string
  readonly image: SimDiskImage
  /** A disk may become slower, and fast again. */
  config: DiskConfig
  /** Every operation fails with this code: the disk was pulled out, or is read-only. */
  broken: DiskErrorCode | undefined
  readonly #scheduler: Scheduler
  readonly #prng: Prng
  readonly #report: Report
  readonly #queue = new Set<Operation>()
  #faults: DiskFault[] = []
  #queuedBytes = 0
  /** Called for every submission and completion. */
  onActivity: () => void = () => {}
  /** Called for every submission, before it takes any effect; faults wait for their moment here. */
  onSubmit: (kind: OperationKind, offsetBytes: number) => void = () => {}
  /** Called for every write that is in the cache, before its process hears of it. */
  onWritten: (offsetBytes: number, lengthBytes: number) => void = () => {}

  constructor(
    scheduler: Scheduler,
    prng: Prng,
    report: Report,
    options: { name: string; sizeBytes: number; config: DiskConfig },
  ) {
    this.name = options.name
    this.image = new SimDiskImage(options.sizeBytes)
    this.config = options.config
    this.#scheduler = scheduler
    this.#prng = prng
    this.#report = report
  }

  get queuedOperations(): number {
    return this.#queue.size
  }

  /** Bytes of the reads and writes in the queue. */
  get queuedBytes(): number {
    return this.#queuedBytes
  }

  open(life: Life): SimDisk {
    return new SimDisk(this, life)
  }

  inject(fault: DiskFault): void {
    this.#scheduler.note(`${this.name} fault: ${fault.on} ${fault.code} ${fault.offsetBytes}+${fault.lengthBytes}`)
    this.#faults.push(fault)
  }

  clearFaults(): void {
    this.#faults = []
    this.broken = undefined
  }

  /** The process is gone: each write in the queue took effect in any subset of its sectors. */
  processCrashed(): void {
    for (const operation of this.#queue) this.#applyTorn(operation)
    this.#queue.clear()
    this.#queuedBytes = 0
  }

  powerCut(): void {
    this.processCrashed()
    this.image.powerCut(this.#prng)
  }

  submit(life: Life, kind: OperationKind, range: OperationRange, done: DiskDone): void {
    const { offsetBytes, lengthBytes, data, unmap } = range
    const label = `${this.name} ${kind} ${offsetBytes}+${lengthBytes}`
    this.#scheduler.note(`${label} submitted`)
    const operation: Operation = {
      life,
      kind,
      offsetBytes,
      lengthBytes,
      data,
      dataHash: data === undefined ? 0 : hashOf(data),
      unmap: unmap ?? false,
      flushSequence: this.image.sequence,
    }
    const usable = kind === 'flush' || this.#checkRange(operation)
    if (usable) this.#checkOverlap(operation)
    this.#queue.add(operation)
    this.#queuedBytes += lengthBytes
    this.onActivity()
    this.onSubmit(kind, offsetBytes)
    this.#scheduler.after(this.#drawLatencyUs(kind), `${label} done`, () => {
      // A crash has emptied the queue: the operation has had the effect that it had.
      if (!this.#queue.delete(operation)) return
      this.#queuedBytes -= lengthBytes
      this.onActivity()
      const error = usable ? this.#errorOf(operation) : { code: 'io' as const, message: 'range outside the device' }
      if (error !== undefined && kind !== 'read') this.#applyTorn(operation)
      const read = error === undefined ? this.#apply(operation) : undefined
      if (error === undefined && (kind === 'write' || kind === 'zero')) this.onWritten(offsetBytes, lengthBytes)
      if (life.alive) done(error, read)
    })
  }

  #drawLatencyUs(kind: OperationKind): number {
    const { latencyUsMin, latencyUsMax, slowPerMille, slowUs, flushUsMax } = this.config
    if (this.#prng.chance(slowPerMille, 1000)) return slowUs
    if (kind === 'flush') return this.#prng.intInclusive(latencyUsMin, Math.max(latencyUsMin, flushUsMax))
    return this.#prng.intInclusive(latencyUsMin, latencyUsMax)
  }

  #apply(operation: Operation): Uint8Array | undefined {
    const { kind, offsetBytes, lengthBytes, data } = operation
    if (kind === 'read') return this.image.read(offsetBytes, lengthBytes)
    if (kind === 'flush') this.image.flush(operation.flushSequence)
    else if (data === undefined) {
      this.image.zero(offsetBytes, lengthBytes, operation.unmap && this.config.discardZeroes)
    } else {
      if (hashOf(data) !== operation.dataHash) {
        this.#report('disk-contract', `${this.name}: buffer of write ${offsetBytes}+${lengthBytes} changed before done`)
      }
      this.image.write(offsetBytes, data)
    }
    return undefined
  }

  /** Each sector is written or not: what a crash or an error leaves of a write. */
  #applyTorn(operation: Operation): void {
    const { kind, offsetBytes, lengthBytes, data } = operation
    if (kind === 'read' || kind === 'flush' || !this.#isInside(operation)) return
    const [numerator, denominator] = this.#prng.pick([
      [0, 1],
      [1, 2],
      [1, 1],
    ] as const)
    for (let at = 0; at < lengthBytes; at += SECTOR_BYTES) {
      if (!this.#prng.chance(numerator, denominator)) continue
      if (data === undefined) this.image.zero(offsetBytes + at, SECTOR_BYTES, false)
      else this.image.write(offsetBytes + at, data.subarray(at, at + SECTOR_BYTES))
    }
  }

  #errorOf(operation: Operation): DiskError | undefined {
    const { kind, offsetBytes, lengthBytes } = operation
    if (this.broken === 'read-only') {
      if (kind === 'write' || kind === 'zero') return { code: 'read-only', message: `${this.name} is read-only` }
    } else if (this.broken !== undefined) return { code: this.broken, message: `${this.name} is broken` }
    const on = kind === 'zero' ? 'write' : kind
    for (const fault of this.#faults) {
      const touches =
        kind === 'flush' ||
        (offsetBytes < fault.offsetBytes + fault.lengthBytes && fault.offsetBytes < offsetBytes + lengthBytes)
      if (fault.on !== on || fault.times <= 0 || !touches) continue
      // A full disk only refuses what needs new space.
      if (fault.code === 'no-space' && !this.image.isHole(offsetBytes, lengthBytes)) continue
      fault.times--
      return { code: fault.code, message: `injected ${fault.code}` }
    }
    return undefined
  }

  #isInside(operation: Operation): boolean {
    const { offsetBytes, lengthBytes } = operation
    return (
      Number.isSafeInteger(offsetBytes) &&
      Number.isSafeInteger(lengthBytes) &&
      offsetBytes >= 0 &&
      lengthBytes > 0 &&
      offsetBytes % SECTOR_BYTES === 0 &&
      lengthBytes % SECTOR_BYTES === 0 &&
      offsetBytes + lengthBytes <= this.image.sizeBytes
    )
  }

  #checkRange(operation: Operation): boolean {
    if (this.#isInside(operation)) return true
    const range = `${operation.offsetBytes}+${operation.lengthBytes}`
    this.#report('disk-contract', `${this.name}: ${operation.kind} ${range} is not sectors inside the device`)
    return false
  }

  #checkOverlap(operation: Operation): void {
    if (operation.kind === 'flush') return
    for (const other of this.#queue) {
      if (other.kind === 'flush' || (other.kind === 'read' && operation.kind === 'read')) continue
      // Nobody will see what a read returns that was under way when its handle was closed.
      if (other.kind === 'read' && !other.life.alive) continue
      if (operation.offsetBytes >= other.offsetBytes + other.lengthBytes) continue
      if (other.offsetBytes >= operation.offsetBytes + operation.lengthBytes) continue
      const first = `${other.kind} ${other.offsetBytes}+${other.lengthBytes}`
      const second = `${operation.kind} ${operation.offsetBytes}+${operation.lengthBytes}`
      this.#report('overlapping-io', `${this.name}: ${second} submitted while ${first} is in the queue`)
    }
  }
}

export interface OperationRange {
  readonly offsetBytes: number
  readonly lengthBytes: number
  readonly data?: Uint8Array
  readonly unmap?: boolean
}

/** A device as one process sees it. */
export class SimDisk implements Disk {
  readonly sizeBytes: number
  readonly discardZeroes: boolean
  readonly #device: SimDiskDevice
  readonly #life: Life

  constructor(device: SimDiskDevice, processLife: Life) {
    this.sizeBytes = device.image.sizeBytes
    this.discardZeroes = device.config.discardZeroes
    this.#device = device
    let closed = false
    // The handle lives as long as the process, or until `close`, whichever is shorter.
    this.#life = {
      get alive(): boolean {
        return !closed && processLife.alive
      },
      set alive(value: boolean) {
        closed = !value
      },
    }
  }

  read(offsetBytes: number, lengthBytes: number, done: DiskDone): void {
    this.#submit('read', { offsetBytes, lengthBytes }, done)
  }

  write(offsetBytes: number, data: Uint8Array, done: DiskDone): void {
    this.#submit('write', { offsetBytes, lengthBytes: data.length, data }, done)
  }

  zero(offsetBytes: number, lengthBytes: number, unmap: boolean, done: DiskDone): void {
    this.#submit('zero', { offsetBytes, lengthBytes, unmap }, done)
  }

  flush(done: DiskDone): void {
    this.#submit('flush', { offsetBytes: 0, lengthBytes: 0 }, done)
  }

  isHole(offsetBytes: number, lengthBytes: number): boolean {
    return this.#device.image.isHole(offsetBytes, lengthBytes)
  }

  extents(offsetBytes: number, lengthBytes: number, extentsMax: number): DiskExtent[] {
    const extents: { lengthBytes: number; hole: boolean }[] = []
    const end = offsetBytes + lengthBytes
    for (let at = offsetBytes; at < end; ) {
      const next = Math.min(end, (Math.floor(at / PAGE_BYTES) + 1) * PAGE_BYTES)
      const hole = this.#device.image.isHole(at, next - at)
      const last = extents[extents.length - 1]
      if (last?.hole === hole) last.lengthBytes += next - at
      else if (extents.length === extentsMax) return extents
      else extents.push({ lengthBytes: next - at, hole })
      at = next
    }
    return extents
  }

  close(): void {
    this.#life.alive = false
  }

  #submit(kind: OperationKind, range: OperationRange, done: DiskDone): void {
    // A process that died while it was in the middle of a turn reaches the disk no more.
    if (this.#life.alive) this.#device.submit(this.#life, kind, range, done)
  }
}
