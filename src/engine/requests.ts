// What is in progress on a volume. Every request that touches the disk or is in flight to the peer has an object here and,
// while it is active, an entry in the volume's interval set; `mayStart` (volume-io.ts) says who waits for whom.

import { unreachable } from '../base/assert.ts'
import type { ClientErrorCode } from '../runtime/api.ts'
import type { DiskError } from '../runtime/ports.ts'
import { DP_ASKS_FIRST } from '../wire/drbd/constants.ts'
import type { ActivityLog, ActivityUser } from './activity.ts'
import type { DiskOp } from './effects.ts'
import type { ReceivedEpoch, SentEpoch } from './epochs.ts'
import type { AppliedWrites } from './in-doubt.ts'
import type { MetadataStore } from './metadata-store.ts'
import type { VolumeIo } from './volume-io.ts'

/**
 * | kind            | what it is                                                        | active from .. to                        |
 * | local-read      | a client's read                                                   | start .. disk or peer's answer           |
 * | local-write     | a client's write or zero request                                  | start .. complete on both hosts          |
 * | peer-write      | a write received from the peer                                    | receipt .. acknowledged; if it asked first, on both disks |
 * | peer-read       | a read for the peer: P_DATA_REQUEST, resync and verify requests   | start .. answer queued on the data stream |
 * | resync-request  | we are target: range asked for                                    | request sent .. resync write complete    |
 * | verify-request  | we verify: block asked for                                        | request sent .. own digest compared      |
 *
 * A peer-read for a verify stays active until the peer's result has come (verify.ts).
 */
export type Request = LocalRead | LocalWrite | PeerWrite | PeerRead | ResyncRequest | VerifyRequest

abstract class Base {
  readonly sector: number
  readonly sectors: number
  active = false

  constructor(sector: number, sectors: number) {
    this.sector = sector
    this.sectors = sectors
  }
}

export class LocalRead extends Base implements DiskOp {
  readonly kind = 'local-read'
  readonly io: VolumeIo
  readonly id: number
  /** The peer's disk answers; the own disk is not touched. */
  remote = false
  cookie = 0
  /** When the peer was asked. */
  startedAtMs = 0

  constructor(io: VolumeIo, id: number, sector: number, sectors: number) {
    super(sector, sectors)
    this.io = io
    this.id = id
  }

  onDisk(error: DiskError | undefined, data: Uint8Array | undefined): void {
    this.io.onLocalReadDone(this, error, data)
  }
}

export class LocalWrite extends Base implements DiskOp, ActivityUser {
  readonly kind = 'local-write'
  readonly io: VolumeIo
  readonly id: number
  /** undefined: a zero request. */
  readonly data: Uint8Array | undefined
  readonly unmap: boolean
  readonly fua: boolean
  /** The block id by which the peer's acknowledgements name it; new at every (re)start. */
  cookie = 0
  startedAtMs = 0
  /** It was handed to a disk or the peer, now or before a link was lost. */
  started = false
  epoch: SentEpoch | undefined
  /** The log that holds references on its extents. */
  activity: ActivityLog | undefined
  /** The own disk is at work on it (with FUA: write, then flush). */
  localPending = false
  localFlushing = false
  localError: ClientErrorCode | undefined
  /** The attached disk that has it; one that is attached anew has not. */
  writtenTo: MetadataStore | undefined
  /** Sent with data, verdict of the peer outstanding. */
  peerPending = false
  /** Its data may still wait to be sent: only an answer of the peer tells that it has left. */
  dataQueued = false
  /** The peer has it (or superseded it); false: its blocks are out of sync. */
  onPeer = false
  /** A receipt (protocol B) is not the last word: a resync runs, and a write acknowledgement follows. */
  awaitsWriteAck = false
  /** The peer cleared its bitmap bits, too (P_RS_WRITE_ACK). */
  maySetInSync = false
  /** The peer told us to send it again after its own overlapping write (P_RETRY_WRITE). */
  postponed = false
  postponedAtMs = 0
  /** The peer's disk could not take it (P_NEG_ACK). */
  refused = false
  /** Answered to the client. */
  completed = false
  /** Where it stands on the way to the own disk; see asked-writes.ts. */
  here: 'free' | 'asked' | 'ordered' | 'left' = 'free'
  /** Sent with DP_ASKS_FIRST. */
  asked = false
  /** Place of its P_WRITE_NOW in the stream of the coordinator. */
  orderedAt = 0
  /** The coordinator waits for word that it is on the own disk. */
  confirms = false
  /** Generation of the locks that it uses; 0: none (order/extent-locks.ts). */
  lockGeneration = 0
  /** Begun while the peer was Secondary; see UnorderedWrites. */
  unordered = false

  constructor(
    io: VolumeIo,
    id: number,
    sector: number,
    sectors: number,
    data: Uint8Array | undefined,
    unmap: boolean,
    fua: boolean,
  ) {
    super(sector, sectors)
    this.io = io
    this.id = id
    this.data = data
    this.unmap = unmap
    this.fua = fua
  }

  /** Sent, and not to be written here yet. */
  get awaitsOrder(): boolean {
    return this.here === 'asked'
  }

  onDisk(error: DiskError | undefined): void {
    this.io.onLocalWriteDone(this, error)
  }

  onActivityGranted(): void {
    this.io.onActivityGranted(this)
  }

  onActivityFailed(error: DiskError): void {
    this.io.failWrite(this, error)
  }
}

export class PeerWrite extends Base implements DiskOp, ActivityUser {
  readonly kind = 'peer-write'
  readonly io: VolumeIo
  readonly blockIdHi: number
  readonly blockIdLo: number
  /** undefined: zero or discard. */
  readonly data: Uint8Array | undefined
  readonly unmap: boolean
  readonly flags: number
  readonly epoch: ReceivedEpoch
  /** Set while the peer has no disk: then its writes are logged here, like own ones (metadata.md 8). */
  activity: ActivityLog | undefined
  awaitsActivity = false
  /** The peer had no disk when it sent it: this is the only copy, also if it has one by now. */
  onlyCopy = false
  /** On its way to the own disk. */
  submitted = false
  flushing = false
  /** On the own disk. One that asked first stays active until the peer has it as well: nobody may read it before. */
  applied = false
  /** Once applied, it is noted there: that of the process which sent it. */
  appliedList: AppliedWrites | undefined
  /** P_WRITE_NOW was sent. */
  ordered = false
  /** Place in the stream of the peer. */
  readonly position: number
  /** Own postponed writes that overlap are sent again once this one is applied. */
  restartOverlapping = false

  constructor(
    io: VolumeIo,
    from: { sector: number; blockIdHi: number; blockIdLo: number; flags: number },
    sizeBytes: number,
    data: Uint8Array | undefined,
    unmap: boolean,
    epoch: ReceivedEpoch,
    position = 0,
  ) {
    super(from.sector, sizeBytes / 512)
    this.io = io
    this.blockIdHi = from.blockIdHi
    this.blockIdLo = from.blockIdLo
    this.flags = from.flags
    this.data = data
    this.unmap = unmap
    this.epoch = epoch
    this.position = position
  }

  get asksFirst(): boolean {
    return (this.flags & DP_ASKS_FIRST) !== 0
  }

  onDisk(error: DiskError | undefined): void {
    this.io.peer.onPeerWriteDone(this, error)
  }

  onActivityGranted(): void {
    this.awaitsActivity = false
    if (this.active) this.activity = this.io.volume.activity
    else this.io.volume.activity?.release(this)
    this.io.pumpNeeded = true
  }

  onActivityFailed(error: DiskError): void {
    this.awaitsActivity = false
    this.io.peer.onPeerWriteDone(this, error)
  }
}

export type PeerReadPurpose = 'data' | 'resync' | 'thin' | 'checksum' | 'verify'

export class PeerRead extends Base implements DiskOp {
  readonly kind = 'peer-read'
  readonly io: VolumeIo
  readonly purpose: PeerReadPurpose
  readonly blockIdHi: number
  readonly blockIdLo: number
  readonly digest: Uint8Array | undefined
  /** The connection by which it came; an answer over another one would mean nothing. */
  readonly session: number
  /** The resync at that time. */
  readonly run: number
  /** Of a verify: the disk is done with it, the peer's result is outstanding. */
  answered = false

  constructor(
    io: VolumeIo,
    purpose: PeerReadPurpose,
    from: { sector: number; blockIdHi: number; blockIdLo: number; sizeBytes: number },
    digest: Uint8Array | undefined,
  ) {
    super(from.sector, from.sizeBytes / 512)
    this.io = io
    this.purpose = purpose
    this.blockIdHi = from.blockIdHi
    this.blockIdLo = from.blockIdLo
    this.digest = digest
    this.session = io.volume.engine.connection.session
    this.run = io.resync.run
  }

  onDisk(error: DiskError | undefined, data: Uint8Array | undefined): void {
    this.io.peer.onPeerReadDone(this, error, data)
  }
}

export class ResyncRequest extends Base implements DiskOp {
  readonly kind = 'resync-request'
  readonly io: VolumeIo
  /** When the source was asked. */
  sentAtMs = Number.POSITIVE_INFINITY
  /** The answer is here and waits for the disk, or is being written; `data` undefined: zeroes. */
  answered = false
  data: Uint8Array | undefined
  writing = false
  /** The own data are being read for their checksum; the request leaves when that is done. */
  checksumming = false

  constructor(io: VolumeIo, sector: number, sectors: number) {
    super(sector, sectors)
    this.io = io
  }

  onDisk(error: DiskError | undefined, data: Uint8Array | undefined): void {
    if (this.checksumming) this.io.resync.onChecksumRead(this, error, data)
    else this.io.resync.onResyncWriteDone(this, error)
  }
}

export class VerifyRequest extends Base implements DiskOp {
  readonly kind = 'verify-request'
  readonly io: VolumeIo
  peerDigest: Uint8Array | undefined
  /** The own disk is at work on it. */
  reading = false

  constructor(io: VolumeIo, sector: number, sectors: number) {
    super(sector, sectors)
    this.io = io
  }

  get isAnswered(): boolean {
    return this.peerDigest !== undefined
  }

  onDisk(error: DiskError | undefined, data: Uint8Array | undefined): void {
    this.io.verify.onReadDone(this, error, data)
  }
}

/**
 * Whether a request of kind `starting` has to wait while `present`, which overlaps it, is active. `starting` may be
 * `resync-write`: an answered resync request that wants to write; or `verify-read`: an answered verify request that wants to
 * read.
 *
 * The rule behind all: two overlapping operations of which one writes are never in the disk queue together, and a read
 * waits for an overlapping write that is not complete everywhere (docs/architecture.md, "Reads").
 */
export function mustWait(
  starting: Request['kind'] | 'resync-write' | 'verify-read',
  present: Request,
  readRule: boolean,
): boolean {
  switch (starting) {
    case 'local-read':
    case 'peer-read':
      // What never began is seen nowhere. It may wait for a lock that the peer gives only after this very read.
      if (present.kind === 'local-write') return present.started && (readRule || present.localPending)
      return present.kind === 'peer-write' || (present.kind === 'resync-request' && present.answered)
    case 'local-write':
      if (present.kind === 'local-read') return !present.remote
      return present.kind !== 'peer-write' || !present.applied
    case 'peer-write':
      // Own writes in flight are the business of the order in force (order/).
      if (present.kind === 'local-read') return !present.remote
      if (present.kind === 'peer-read') return !present.answered
      if (present.kind === 'verify-request') return present.reading
      // The source sent the answer before this write: older data must not land on top of it.
      if (present.kind === 'resync-request') return present.answered || present.checksumming
      return present.kind === 'peer-write' && present.submitted && !present.applied
    case 'verify-request':
    case 'resync-request':
      // One that is at the disk would be read halfway for a checksum.
      if (present.kind === 'peer-write') return present.submitted && !present.applied
      return present.kind === 'local-write' || present.kind === 'resync-request'
    case 'resync-write':
      if (present.kind === 'local-read') return !present.remote
      if (present.kind === 'resync-request') return false
      if (present.kind === 'verify-request') return present.reading
      // One that is not at the disk yet came later and waits for us.
      if (present.kind === 'peer-write') return present.submitted && !present.applied
      return true
    case 'verify-read':
      // Sent before the peer's answer, so it is part of what the peer compared.
      return present.kind === 'peer-write' && !present.applied
    default:
      return unreachable(starting)
  }
}
