// The ports: all that a replica asks of the machine it runs on. The daemon puts adapters/ behind them, the simulator
// sim/. Every operation is submitted now and completes later through a callback, never inside the call; there is no
// promise anywhere, so that a simulator decides when each thing happens.

/** Why a disk operation failed. `io` is anything that is not one of the others. */
export type DiskErrorCode = 'io' | 'no-space' | 'read-only' | 'gone'

export interface DiskError {
  readonly code: DiskErrorCode
  readonly message: string
}

/** Completion of a disk operation; `data` only for a read. */
export type DiskDone = (error: DiskError | undefined, data?: Uint8Array) => void

/**
 * A backing device: a block device or a regular file. Offsets and lengths are bytes, multiples of 512, inside the device.
 * Operations in the queue together may complete, and take effect, in any order; the caller never has two overlapping ones
 * in the queue of which one writes. Nothing is durable before a `flush` that was submitted after its completion is done.
 */
export interface Disk {
  /** Capacity in bytes, rounded down to a multiple of 512. Fixed while open. */
  readonly sizeBytes: number
  /**
   * Whether the device can discard so that the range reads as zeroes. Then `zero` with `unmap` gives space back; else it
   * writes zeroes like any other `zero`, and nothing becomes a hole.
   */
  readonly discardZeroes: boolean
  /** The buffer handed to `done` belongs to the receiver. */
  read(offsetBytes: number, lengthBytes: number, done: DiskDone): void
  /** `data` must not change before `done`. */
  write(offsetBytes: number, data: Uint8Array, done: DiskDone): void
  /** Makes the range read as zeroes, whatever `unmap` and `discardZeroes` say. `unmap`: the space may be given back. */
  zero(offsetBytes: number, lengthBytes: number, unmap: boolean, done: DiskDone): void
  /** All writes completed before this call are durable when `done` is called (fdatasync). */
  flush(done: DiskDone): void
  /**
   * Whether the range is known to hold no data (a hole that reads as zeroes). Synchronous and cheap; false if not known.
   */
  isHole(offsetBytes: number, lengthBytes: number): boolean
  /** Up to `extentsMax` extents of data and holes from `offsetBytes` on, for NBD block status. */
  extents(offsetBytes: number, lengthBytes: number, extentsMax: number): DiskExtent[]
  /**
   * No completion is called after `close`. What was submitted before it may take effect or not; reads, writes, zeroes and
   * flushes after it are ignored. `isHole` and `extents` of a closed disk are a mistake of the caller.
   */
  close(): void
}

export interface DiskExtent {
  readonly lengthBytes: number
  readonly hole: boolean
}

/** Called by a link. After `onClose` no further callback comes. */
export interface LinkHandler {
  /** Bytes received, in order. The memory is the link's again when the call returns. */
  onData(chunk: Uint8Array): void
  /** Where the next received bytes may be put, never empty; a link that can calls `onFilled` then, instead of `onData`. */
  target?(): Uint8Array
  /** So many bytes were received into the beginning of what the last `target` gave. */
  onFilled?(lengthBytes: number): void
  /** The outgoing queue of the link has been handed to the operating system completely. */
  onDrain(): void
  /** The link is gone, for whatever reason; not called after an own `close()`. */
  onClose(reason: string): void
}

/** One TCP stream to the peer. */
export interface Link {
  setHandler(handler: LinkHandler): void
  /**
   * Queues bytes in order. The buffers must not change until they are gone (`queuedBytes` is 0, or `onDrain` was called). What is sent within one turn leaves in as few
   * system calls as possible (the adapter gathers until the turn ends).
   */
  send(chunks: readonly Uint8Array[]): void
  /** Bytes queued by `send` and not yet handed to the operating system. */
  readonly queuedBytes: number
  /** Stops and restarts delivery of `onData`; unread bytes wait in the operating system's buffers (back-pressure). */
  pauseReading(): void
  resumeReading(): void
  /** Closes at once; what is queued may be lost. */
  close(): void
}

export interface Network {
  /** Tries to connect to the peer's replication address. Exactly one of the callbacks comes, unless cancelled. */
  connect(timeoutMs: number, onUp: (link: Link) => void, onFailure: (reason: string) => void): { cancel(): void }
  /** Accepts connections on the own replication address until `stopListening`. Throws nothing: a failure is reported. */
  listen(onLink: (link: Link) => void, onFailure: (reason: string) => void): void
  stopListening(): void
}

export interface Clock {
  /** Milliseconds since an arbitrary start, never going back. */
  nowMs(): number
  /**
   * Calls `fire` once, at or after `deadlineMs`, never inside this call; infinity never comes. Each call is a wake-up of its
   * own, independent of all others. `cancel` may be called at any time, also twice, or when it has fired.
   */
  wakeAt(deadlineMs: number, fire: () => void): { cancel(): void }
}

export interface Entropy {
  u64(): bigint
  u32(): number
}

/** Digests named as the Linux kernel's crypto API names them (`sha1`, `sha256`, `md5`, `crc32c`). */
export interface Digests {
  /** Bytes of a digest; undefined if the algorithm is not known here. */
  sizeBytes(algorithm: string): number | undefined
  digest(algorithm: string, data: Uint8Array): Uint8Array
  hmac(algorithm: string, key: Uint8Array, message: Uint8Array): Uint8Array
}

/** Runs a handler command of the administrator (fence-peer and the like). */
export interface Handlers {
  run(name: string, environment: ReadonlyMap<string, string>, done: (exitCode: number) => void): void
}
