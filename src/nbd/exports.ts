// What a session needs from whoever owns the disks: the exports that a client may choose, and one opened export.

import type { ClientDone, ClientRequest } from '../runtime/api.ts'
import type { BlockSize } from '../wire/nbd/handshake.ts'

export interface NbdExports {
  /** For NBD_OPT_LIST, in the order in which clients shall see them. */
  list(): readonly NbdExportEntry[]
  /** `name` as the client sent it; '' is the default export. Every opened export gets one `closed()`. */
  open(name: string): NbdExport | NbdExportRefusal
}

export interface NbdExportEntry {
  readonly name: string
  readonly description: string
}

export interface NbdExportRefusal {
  readonly refused: 'unknown' | 'policy' | 'shutdown'
  /** One sentence for the client's log. */
  readonly text: string
}

export interface NbdExtent {
  readonly lengthBytes: number
  /** Holds no data and reads as zeroes. */
  readonly hole: boolean
}

/** An export as one session has opened it. */
export interface NbdExport {
  /** The canonical name. */
  readonly name: string
  /** '' = none. */
  readonly description: string
  /** Goes into the requests. */
  readonly volume: number
  /** A multiple of the smallest block. */
  readonly sizeBytes: number
  /** Writes are refused with EPERM. May change while open; the client is told only when it connects. */
  readonly readOnly: boolean
  /** Bytes: multiples of 512; usually 512, 4096 and 32 MiB. No request submitted is longer than the maximum. */
  readonly blockSize: BlockSize
  /** Whether new requests are welcome. When it turns true again, call `resume()` of the sessions. */
  readonly admits: boolean
  /**
   * The data of a write must be left alone until `done`, and is not touched by the session after it. The data of a read
   * goes to the client as it is: it must not change any more.
   */
  submit(request: ClientRequest, done: ClientDone): void
  /** Extents from `offsetBytes` on, in order, at most `extentsMax`, lengths multiples of 512. May cover less or more. */
  extents(offsetBytes: number, lengthBytes: number, extentsMax: number): readonly NbdExtent[]
  /** The session is over and none of its requests is in flight any more. */
  closed(): void
}
