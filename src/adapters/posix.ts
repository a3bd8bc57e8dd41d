// Calls of the C library that Node.js lacks, through koffi (an FFI with prebuilt binaries: nothing is compiled). Linux only.
// `loadPosix` gives undefined where koffi does not load; every caller has a slower way that needs none of this.
// Results are as the kernel gives them: a number >= 0, or the negative errno. Facts: fallocate(2), lseek(2), flock(2),
// preadv2(2), linux/fs.h (ioctl numbers; those with a size in them are for 64-bit machines).
//
// Asynchronous calls run in libuv's thread pool (4 threads, shared with fs.*). They may take long (a fallocate writes back
// dirty pages first), so only a few are in the pool at once and the rest waits here.

import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'

export const FALLOC_FL_KEEP_SIZE = 0x01
export const FALLOC_FL_PUNCH_HOLE = 0x02
export const FALLOC_FL_ZERO_RANGE = 0x10
export const SEEK_END = 2
export const SEEK_DATA = 3
export const SEEK_HOLE = 4

const LOCK_EX = 2
const LOCK_NB = 4
const RWF_NOWAIT = 0x08
const BLKROGET = 0x125e
const BLKSSZGET = 0x1268
const BLKDISCARDZEROES = 0x127c
const BLKZEROOUT = 0x127f
const BLKGETSIZE64 = 0x80081272

export const ERRNO = constants.errno

/** Calls under way in the thread pool at most: one of its four threads stays free for reads and writes. */
const ASYNC_CALLS_MAX = 3

/** Receives 0 or the negative errno. */
export type CallDone = (result: number) => void

export interface Posix {
  /** Exclusive flock without waiting: 0, -EWOULDBLOCK if someone else holds it, or another error. */
  lockExclusive(fd: number): number
  /** Moves the file offset, which nothing else uses; gives the place found. */
  seek(fd: number, offsetBytes: number, whence: number): number
  /** The address for `readCached`. Valid while the buffer is referenced. */
  addressOf(buffer: Uint8Array): number
  /** Reads what is in the page cache and never waits for the disk: bytes read, or -EAGAIN. */
  readCached(fd: number, address: number, lengthBytes: number, offsetBytes: number): number
  fallocateNow(fd: number, mode: number, offsetBytes: number, lengthBytes: number): number
  fallocate(fd: number, mode: number, offsetBytes: number, lengthBytes: number, done: CallDone): void
  /** Zeroes a range of a block device; writes zeroes where the device cannot. */
  blockZeroOut(fd: number, offsetBytes: number, lengthBytes: number, done: CallDone): void
  blockSizeBytes(fd: number): number
  logicalBlockBytes(fd: number): number
  blockIsReadOnly(fd: number): boolean
  /** Whether the kernel vouches that a discarded range reads as zeroes; kernels since 4.12 never do. */
  blockDiscardZeroes(fd: number): boolean
}

let loaded: Posix | undefined
let tried = false

export function loadPosix(): Posix | undefined {
  if (tried) return loaded
  tried = true
  if (process.platform !== 'linux') return undefined
  try {
    loaded = new KoffiPosix(createRequire(import.meta.url)('koffi') as Koffi)
  } catch {
    // No binary for this machine, or no such symbol in this C library: all callers have a fall-back.
    loaded = undefined
  }
  return loaded
}

/** `ENOSPC` for -28. */
export const errnoName = (result: number): string => getSystemErrorName(result)

// ---- koffi ----------------------------------------------------------------------------------------------------------

type Argument = number | Uint8Array | Uint32Array | BigInt64Array
type NativeResult = number | bigint

interface NativeFunction {
  (...values: Argument[]): NativeResult
  async(...values: (Argument | ((error: unknown, result: NativeResult) => void))[]): void
}

/** The part of koffi that is used here; its own types are made of `any`. */
interface Koffi {
  load(path: null): { func(name: string, result: string, parameters: readonly string[]): NativeFunction }
  errno(): number
  address(buffer: Uint8Array): bigint
}

class KoffiPosix implements Posix {
  readonly #koffi: Koffi
  readonly #flock: NativeFunction
  readonly #lseek: NativeFunction
  readonly #preadv2: NativeFunction
  readonly #fallocate: NativeFunction
  readonly #ioctl: NativeFunction
  /** struct iovec, as four 32-bit words on a little-endian 64-bit machine. Has a backing store of its own: never moves. */
  readonly #iovec = new Uint32Array(new ArrayBuffer(128), 0, 4)
  readonly #waiting: (() => void)[] = []
  /** Arguments that the kernel reads while a call is under way: referenced, so that they stay where they are. */
  readonly #held = new Set<BigInt64Array>()
  #running = 0

  constructor(koffi: Koffi) {
    // With 32-bit pointers or the other byte order the iovec and the ioctl numbers would be wrong.
    if (!['x64', 'arm64', 'riscv64', 'loong64'].includes(process.arch))
      throw new Error(`no bindings for ${process.arch}`)
    this.#koffi = koffi
    const libc = koffi.load(null)
    this.#flock = libc.func('flock', 'int', ['int', 'int'])
    this.#lseek = libc.func('lseek', 'int64', ['int', 'int64', 'int'])
    this.#preadv2 = libc.func('preadv2', 'int64', ['int', 'void *', 'int', 'int64', 'int'])
    this.#fallocate = libc.func('fallocate', 'int', ['int', 'int', 'int64', 'int64'])
    this.#ioctl = libc.func('ioctl', 'int', ['int', 'unsigned long', 'void *'])
  }

  lockExclusive(fd: number): number {
    return this.#checked(this.#flock(fd, LOCK_EX | LOCK_NB))
  }

  seek(fd: number, offsetBytes: number, whence: number): number {
    return this.#checked(this.#lseek(fd, offsetBytes, whence))
  }

  addressOf(buffer: Uint8Array): number {
    return Number(this.#koffi.address(buffer))
  }

  readCached(fd: number, address: number, lengthBytes: number, offsetBytes: number): number {
    const iovec = this.#iovec
    iovec[0] = address >>> 0
    iovec[1] = Math.floor(address / 0x1_0000_0000)
    iovec[2] = lengthBytes
    return this.#checked(this.#preadv2(fd, iovec, 1, offsetBytes, RWF_NOWAIT))
  }

  fallocateNow(fd: number, mode: number, offsetBytes: number, lengthBytes: number): number {
    return this.#checked(this.#fallocate(fd, mode, offsetBytes, lengthBytes))
  }

  fallocate(fd: number, mode: number, offsetBytes: number, lengthBytes: number, done: CallDone): void {
    this.#submit(() => {
      this.#fallocate.async(fd, mode, offsetBytes, lengthBytes, (_error, result) => this.#finish(result, done))
    })
  }

  blockZeroOut(fd: number, offsetBytes: number, lengthBytes: number, done: CallDone): void {
    const range = new BigInt64Array(new ArrayBuffer(128), 0, 2)
    range[0] = BigInt(offsetBytes)
    range[1] = BigInt(lengthBytes)
    this.#held.add(range)
    this.#submit(() => {
      this.#ioctl.async(fd, BLKZEROOUT, range, (_error, result) => {
        this.#held.delete(range)
        this.#finish(result, done)
      })
    })
  }

  blockSizeBytes(fd: number): number {
    const size = new BigInt64Array(new ArrayBuffer(128), 0, 1)
    const result = this.#checked(this.#ioctl(fd, BLKGETSIZE64, size))
    return result < 0 ? result : Number(size[0])
  }

  logicalBlockBytes(fd: number): number {
    const size = new Uint32Array(new ArrayBuffer(128), 0, 1)
    const result = this.#checked(this.#ioctl(fd, BLKSSZGET, size))
    return result < 0 ? result : (size[0] as number)
  }

  blockIsReadOnly(fd: number): boolean {
    return this.#blockFlag(fd, BLKROGET)
  }

  blockDiscardZeroes(fd: number): boolean {
    return this.#blockFlag(fd, BLKDISCARDZEROES)
  }

  #blockFlag(fd: number, request: number): boolean {
    const flag = new Uint32Array(new ArrayBuffer(128), 0, 1)
    return this.#checked(this.#ioctl(fd, request, flag)) === 0 && flag[0] !== 0
  }

  #checked(result: NativeResult): number {
    return result < 0 ? -this.#koffi.errno() : Number(result)
  }

  #submit(start: () => void): void {
    if (this.#running < ASYNC_CALLS_MAX) {
      this.#running++
      start()
    } else {
      this.#waiting.push(start)
    }
  }

  /** koffi hands the errno of the pool's thread to the callback. */
  #finish(result: NativeResult, done: CallDone): void {
    const checked = this.#checked(result)
    const next = this.#waiting.shift()
    if (next === undefined) this.#running--
    else next()
    done(checked)
  }
}
