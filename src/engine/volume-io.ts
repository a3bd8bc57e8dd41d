// The application's requests on one volume: reads, writes, zeroes, flushes. Who waits for whom is `mustWait` of
// requests.ts; this file starts, tracks and answers.
//
// Life of a write: extents hot in the activity log -> waits for what overlaps -> disk and peer at once -> both done ->
// answered. If the peer has no part in it, its blocks are out of sync before it starts, and it is answered only when the
// metadata on disk says that this host went on alone (`Volume.mayCompleteAlone`).

import { assert } from '../base/assert.ts'
import { blocksCovered, blocksTouched } from '../meta/bitmap.ts'
import type { ClientErrorCode } from '../runtime/api.ts'
import type { DiskError } from '../runtime/ports.ts'
import {
  C_CONNECTED,
  C_PAUSED_SYNC_T,
  C_SYNC_SOURCE,
  D_INCONSISTENT,
  D_UPTODATE,
  DP_ASKS_FIRST,
  DP_DISCARD,
  DP_FUA,
  DP_MAY_SET_IN_SYNC,
  DP_RW_SYNC,
  DP_SEND_RECEIVE_ACK,
  DP_SEND_WRITE_ACK,
  DP_ZEROES,
} from '../wire/drbd/constants.ts'
import { AskedWrites } from './asked-writes.ts'
import { Congestion } from './congestion.ts'
import { Flushes, FlushRequest } from './flushes.ts'
import { decodeCookies, encodeCookies } from './in-doubt.ts'
import { IntervalSet } from './intervals.ts'
import { RESYNC_BUSY_MS, RETRY_ALONE_MS } from './limits.ts'
import { createOrder } from './order/create-order.ts'
import type { WriteOrder } from './order/order.ts'
import { PeerIo } from './peer-io.ts'
import {
  LocalRead,
  LocalWrite,
  mustWait,
  type PeerRead,
  type Request,
  type ResyncRequest,
  type VerifyRequest,
} from './requests.ts'
import { Resync } from './resync.ts'
import { Verify } from './verify.ts'
import type { Volume } from './volume.ts'

/** A range that the winner of a conflict leaves free for the write it told to retry. */
interface OwedRange {
  readonly sector: number
  readonly sectors: number
}

export class VolumeIo {
  readonly volume: Volume
  readonly peer: PeerIo
  readonly order: WriteOrder
  readonly asked: AskedWrites
  readonly congestion: Congestion
  readonly resync: Resync
  readonly verify: Verify
  readonly active = new IntervalSet<Request>()
  /** Sent to the peer and not yet answered, by block id; in the order in which they were sent. */
  readonly inFlight = new Map<number, LocalWrite | LocalRead>()
  readonly owed = new Set<OwedRange>()
  /** Local requests that wait for what overlaps them, in order of arrival. */
  #waiting: (LocalRead | LocalWrite | PeerRead | ResyncRequest | VerifyRequest)[] = []
  /** Requests that wait until the volume takes I/O at all. */
  #held: (LocalRead | LocalWrite | FlushRequest)[] = []
  /** Complete here, not on the peer, and not yet allowed to be answered. */
  #parked: (LocalWrite | FlushRequest)[] = []
  /** Active writes that have to be sent (again) as soon as nothing is in their way. */
  #restarts: LocalWrite[] = []
  /**
   * In flight when the link was lost, by block id: the peer may have applied them, and its readers may have seen them. A
   * write that was applied must not be executed again, because others may have been ordered after it since.
   */
  readonly #inDoubt = new Map<number, LocalWrite>()
  /** Were in doubt, are sent again, and not done yet. */
  readonly #resent = new Set<LocalWrite>()
  #nextCookie = 1
  /** Active requests of clients of this host. */
  #ownActive = 0
  pumpNeeded = false
  /** When the application last asked for something, for the resync that yields to it. */
  lastRequestMs = Number.NEGATIVE_INFINITY
  readonly flushes: Flushes
  readRequests = 0
  writeRequests = 0
  superseded = 0
  retried = 0

  constructor(volume: Volume) {
    this.volume = volume
    this.peer = new PeerIo(this)
    this.order = createOrder(volume)
    this.asked = new AskedWrites(this)
    this.congestion = new Congestion(volume)
    this.resync = new Resync(this)
    this.verify = new Verify(this)
    this.flushes = new Flushes(this)
  }

  // ---- requests of clients -------------------------------------------------------------------------------------------

  read(id: number, sector: number, sectors: number): void {
    this.readRequests++
    this.lastRequestMs = this.volume.engine.nowMs
    const read = new LocalRead(this, id, sector, sectors)
    if (this.volume.holdsReads) this.#held.push(read)
    else this.enqueueLocal(read)
  }

  write(id: number, sector: number, sectors: number, data: Uint8Array | undefined, unmap: boolean, fua: boolean): void {
    this.writeRequests++
    this.lastRequestMs = this.volume.engine.nowMs
    const { connection } = this.volume.engine
    // A peer that knows no zero requests gets zeroes as data.
    const zeroAsData = data === undefined && connection.zeroBytesMax === 0 && sectors * 512 <= connection.writeBytesMax
    const content = zeroAsData ? new Uint8Array(sectors * 512) : data
    const write = new LocalWrite(this, id, sector, sectors, content, unmap, fua)
    if (this.volume.holdsWrites) this.#held.push(write)
    else this.#admit(write)
  }

  flush(id: number): void {
    const flush = new FlushRequest(this, id)
    if (this.volume.holdsReads) this.#held.push(flush)
    else this.flushes.request(flush)
  }

  /** The volume's state changed: what was held may go on. */
  releaseHeld(): void {
    if (this.#held.length === 0) return
    const held = this.#held
    this.#held = []
    for (const request of held) {
      if (request instanceof FlushRequest) {
        if (this.volume.holdsReads) this.#held.push(request)
        else this.flushes.request(request)
      } else if (request.kind === 'local-read') {
        if (this.volume.holdsReads) this.#held.push(request)
        else this.enqueueLocal(request)
      } else if (this.volume.holdsWrites) this.#held.push(request)
      else this.#admit(request)
    }
  }

  /** Sends back every request that has not begun; used when the volume goes away. */
  failHeld(code: ClientErrorCode, message: string): void {
    for (const request of this.#held.splice(0)) this.volume.engine.clientDone(request.id, { code, message })
    for (const request of this.#waiting.splice(0)) {
      if (request.kind === 'local-read') this.volume.engine.clientDone(request.id, { code, message })
      else if (request.kind === 'local-write') this.failWrite(request, { code: 'gone', message })
    }
  }

  /** Clients here or there are at work: what runs in the background takes little. */
  get busy(): boolean {
    return this.volume.engine.nowMs - this.lastRequestMs < RESYNC_BUSY_MS || this.peer.pending.size > 0
  }

  /** No request of a client is in progress. */
  get quiet(): boolean {
    return (
      this.#ownActive === 0 &&
      this.#held.length === 0 &&
      this.#waiting.length === 0 &&
      this.#parked.length === 0 &&
      (this.volume.activity?.quiet ?? true) &&
      this.flushes.quiet
    )
  }

  /** Whether own writes are in progress. */
  get localWritesActive(): boolean {
    return this.#parked.length > 0 || this.#restarts.length > 0 || this.inFlight.size > 0 || !this.quiet
  }

  #admit(write: LocalWrite): void {
    const activity = this.volume.activity
    if (this.order.usesLocks) this.enqueueLocal(write)
    else if (activity === undefined || activity.acquire(write)) {
      write.activity = activity
      this.enqueueLocal(write)
    }
  }

  /** The log has the write's extents. */
  onActivityGranted(write: LocalWrite): void {
    write.activity = this.volume.activity
    if (write.active) this.restart(write)
    else this.enqueueLocal(write)
  }

  // ---- waiting for what overlaps ---------------------------------------------------------------------------------------

  enqueueLocal(request: LocalRead | LocalWrite | PeerRead | ResyncRequest | VerifyRequest): void {
    if (this.#waiting.length === 0 && !this.#blocked(request)) this.#start(request)
    else if (this.#waiting.length > 0 && !this.#behind(request, this.#waiting.length) && !this.#blocked(request))
      this.#start(request)
    else this.#waiting.push(request)
  }

  release(request: Request): void {
    if (!request.active) return
    request.active = false
    this.active.remove(request)
    if (request.kind === 'local-read' || request.kind === 'local-write') this.#ownActive--
    this.pumpNeeded = true
  }

  activate(request: Request): void {
    assert(!request.active, 'a request is activated once')
    request.active = true
    this.active.insert(request)
    if (request.kind === 'local-read' || request.kind === 'local-write') this.#ownActive++
  }

  /** Starts what waited for requests that have ended since. The peer's writes go first, then restarts, then the queue. */
  pump(): void {
    this.pumpNeeded = false
    this.peer.pump()
    this.asked.pump()
    for (const write of this.#restarts.splice(0)) {
      if (this.#blocked(write)) this.#restarts.push(write)
      else this.#startOrHold(write)
    }
    if (this.#waiting.length === 0) return
    const waiting = this.#waiting
    const still: typeof waiting = []
    this.#waiting = still
    for (const request of waiting) {
      if (this.#behind(request, still.length) || this.#blocked(request)) still.push(request)
      else this.#start(request)
    }
  }

  #blocked(request: LocalRead | LocalWrite | PeerRead | ResyncRequest | VerifyRequest): boolean {
    let blocked = false
    const readRule = this.volume.engine.readRule
    this.active.forEachOverlap(request.sector, request.sectors, (present) => {
      if (present !== request && mustWait(request.kind, present, readRule)) blocked = true
    })
    if (!blocked && request.kind === 'local-write' && this.owed.size > 0) {
      for (const range of this.owed) if (overlaps(range, request)) return true
    }
    return blocked
  }

  /** Fairness: whether an overlapping request that came earlier still waits, and one of the two writes. */
  #behind(request: LocalRead | LocalWrite | PeerRead | ResyncRequest | VerifyRequest, earlierCount: number): boolean {
    for (let i = 0; i < earlierCount; i++) {
      const earlier = this.#waiting[i] as Request
      if ((earlier.kind === 'local-write' || request.kind === 'local-write') && overlaps(earlier, request)) return true
    }
    return false
  }

  #start(request: LocalRead | LocalWrite | PeerRead | ResyncRequest | VerifyRequest): void {
    switch (request.kind) {
      case 'local-read':
        this.#startRead(request)
        break
      case 'local-write':
        this.activate(request)
        this.#startOrHold(request)
        break
      case 'peer-read':
        this.activate(request)
        this.peer.startRead(request)
        break
      case 'resync-request':
        this.activate(request)
        this.resync.sendRequest(request)
        break
      case 'verify-request':
        this.activate(request)
        this.verify.sendRequest(request)
        break
    }
  }

  /**
   * An active write with nothing in its way. First the lock, if the order has some, then the log, also that of a disk that
   * was attached since the write came: who waits for a lock of the peer must not hold log slots that writes of a diskless
   * peer need. It stays active meanwhile: it may have been executed before, and nobody may see that twice.
   */
  #startOrHold(write: LocalWrite): void {
    this.congestion.check()
    const { activity, holdsWrites } = this.volume
    if (holdsWrites) {
      this.#restarts.push(write)
      return
    }
    if (!this.order.admit(write)) return
    if (write.activity !== activity) {
      this.#releaseActivity(write)
      if (activity !== undefined && !activity.acquire(write)) return
      write.activity = activity
    }
    this.#startWrite(write)
  }

  // ---- reads -----------------------------------------------------------------------------------------------------------

  #startRead(read: LocalRead): void {
    const volume = this.volume
    if (volume.readsLocally(read.sector, read.sectors)) {
      this.activate(read)
      volume.engine.emit({
        type: 'disk.read',
        volume: volume.number,
        offsetBytes: read.sector * 512,
        lengthBytes: read.sectors * 512,
        op: read,
      })
    } else if (volume.state.conn >= C_CONNECTED && volume.state.pdsk === D_UPTODATE) {
      read.remote = true
      read.cookie = this.#cookie()
      read.startedAtMs = volume.engine.nowMs
      this.activate(read)
      this.inFlight.set(read.cookie, read)
      volume.engine.connection.epochs.assign(undefined)
      volume.engine.connection.sendData({
        type: 'P_DATA_REQUEST',
        volume: volume.number,
        sector: read.sector,
        blockIdHi: 0,
        blockIdLo: read.cookie,
        sizeBytes: read.sectors * 512,
      })
    } else if (volume.holdsReads) this.#held.push(read)
    else
      volume.engine.clientDone(read.id, {
        code: 'io',
        message: `volume ${volume.number}: no UpToDate data for this read, neither here nor on the peer`,
      })
  }

  onLocalReadDone(read: LocalRead, error: DiskError | undefined, data: Uint8Array | undefined): void {
    this.release(read)
    if (error === undefined) {
      this.volume.engine.clientDone(read.id, undefined, data)
      return
    }
    this.volume.onDataError(error, 'read')
    // The peer's copy may do.
    this.#retryRead(read)
  }

  onDataReply(cookie: number, sector: number, payload: Uint8Array): boolean {
    const read = this.inFlight.get(cookie)
    if (
      read === undefined ||
      read.kind !== 'local-read' ||
      read.sector !== sector ||
      payload.length !== read.sectors * 512
    )
      return false
    this.inFlight.delete(cookie)
    this.release(read)
    this.volume.engine.clientDone(read.id, undefined, payload)
    return true
  }

  onNegativeReply(cookie: number, sector: number): boolean {
    const read = this.inFlight.get(cookie)
    if (read === undefined || read.kind !== 'local-read' || read.sector !== sector) return false
    this.inFlight.delete(cookie)
    this.release(read)
    if (this.volume.suspended) this.#retryRead(read)
    else this.volume.engine.clientDone(read.id, { code: 'io', message: 'the peer could not read this range either' })
    return true
  }

  #retryRead(read: LocalRead): void {
    const again = new LocalRead(this, read.id, read.sector, read.sectors)
    if (this.volume.holdsReads) this.#held.push(again)
    else this.enqueueLocal(again)
  }

  // ---- writes ----------------------------------------------------------------------------------------------------------

  restart(write: LocalWrite): void {
    this.#restarts.push(write)
    this.pumpNeeded = true
  }

  /** Disk and peer, at once. The request is active and nothing that overlaps is in its way. */
  #startWrite(write: LocalWrite): void {
    const volume = this.volume
    const engine = volume.engine
    write.startedAtMs = engine.nowMs
    write.started = true
    write.postponed = false
    write.onPeer = false
    write.maySetInSync = false
    write.localError = undefined
    write.writtenTo = undefined
    write.refused = false
    write.here = 'free'
    write.asked = false
    const [fromBit, toBit] = blocksTouched(write.sector, write.sectors)
    engine.connection.epochs.assign(write)
    const onDisk = volume.state.disk >= D_INCONSISTENT
    if (volume.replicates) this.#sendWrite(write, fromBit, toBit)
    else {
      volume.bitmap?.set(fromBit, toBit)
      if (volume.sendsOutOfSync) {
        engine.connection.sendData({
          type: 'P_OUT_OF_SYNC',
          volume: volume.number,
          sector: write.sector,
          sizeBytes: write.sectors * 512,
        })
      }
    }
    if (write.awaitsOrder) return
    if (onDisk) this.#writeDisk(write)
    else if (!write.peerPending && !write.onPeer) {
      write.localError = 'io'
      this.#maybeComplete(write)
    }
  }

  /** A write that asked first may be written here now; if there is still a disk. */
  writeHere(write: LocalWrite): void {
    if (this.volume.state.disk >= D_INCONSISTENT) this.#writeDisk(write)
    else {
      this.asked.onWrittenHere(write, true)
      this.#maybeComplete(write)
    }
  }

  #writeDisk(write: LocalWrite): void {
    const { volume } = this
    write.localPending = true
    const offsetBytes = write.sector * 512
    if (write.data !== undefined)
      volume.engine.emit({ type: 'disk.write', volume: volume.number, offsetBytes, data: write.data, op: write })
    else
      volume.engine.emit({
        type: 'disk.zero',
        volume: volume.number,
        offsetBytes,
        lengthBytes: write.sectors * 512,
        unmap: write.unmap,
        op: write,
      })
  }

  #sendWrite(write: LocalWrite, fromBit: number, toBit: number): void {
    const volume = this.volume
    const connection = volume.engine.connection
    const protocol = volume.engine.settings.protocol
    if (!connection.takes(write)) {
      connection.protocolError(
        `the peer's version ${connection.apv} does not take a request of ${write.sectors * 512} bytes that was begun before it connected`,
      )
      volume.bitmap?.set(fromBit, toBit)
      return
    }
    const resyncing = volume.state.conn >= C_SYNC_SOURCE && volume.state.conn <= C_PAUSED_SYNC_T
    let flags = DP_RW_SYNC
    if (resyncing) flags |= DP_MAY_SET_IN_SYNC
    if (write.fua) flags |= DP_FUA
    if (protocol === 'C' || resyncing) flags |= DP_SEND_WRITE_ACK
    if (protocol === 'B') flags |= DP_SEND_RECEIVE_ACK
    write.cookie = this.#cookie()
    if (this.order.asksFirst(write) && volume.state.disk >= D_INCONSISTENT) {
      flags |= DP_ASKS_FIRST
      this.asked.add(write)
    }
    const common = {
      volume: volume.number,
      sector: write.sector,
      blockIdHi: 0,
      blockIdLo: write.cookie,
      sequence: volume.nextSequence(),
    }
    if (write.data !== undefined) {
      write.dataQueued = true
      connection.sendData({
        type: 'P_DATA',
        ...common,
        flags,
        digest: connection.integrityDigest(write.data),
        payload: write.data,
      })
    } else if (connection.hasZeroes) {
      const zeroFlags = flags | DP_ZEROES | (write.unmap ? DP_DISCARD : 0)
      connection.sendData({ type: 'P_ZEROES', ...common, flags: zeroFlags, sizeBytes: write.sectors * 512 })
    } else {
      // Without FF_WZEROES a P_TRIM has to read back as zeroes, which is what is wanted (3.5).
      connection.sendData({ type: 'P_TRIM', ...common, flags: flags | DP_DISCARD, sizeBytes: write.sectors * 512 })
    }
    if (write.epoch !== undefined) connection.epochs.sent(write.epoch)
    this.congestion.onSent(write)
    volume.stability?.mark(fromBit, toBit)
    this.flushes.onWriteSent()
    volume.sentBytes += write.sectors * 512
    if (protocol === 'A' && !resyncing) write.onPeer = true
    else {
      write.peerPending = true
      write.awaitsWriteAck = (flags & DP_SEND_WRITE_ACK) !== 0
      this.inFlight.set(write.cookie, write)
    }
  }

  onLocalWriteDone(write: LocalWrite, error: DiskError | undefined): void {
    if (error === undefined && write.fua && !write.localFlushing) {
      write.localFlushing = true
      this.volume.engine.emit({ type: 'disk.flush', volume: this.volume.number, op: write })
      return
    }
    write.localFlushing = false
    write.localPending = false
    if (error !== undefined) {
      write.localError = error.code === 'no-space' ? 'no-space' : 'io'
      const [from, to] = blocksTouched(write.sector, write.sectors)
      this.volume.bitmap?.set(from, to)
      this.volume.onDataError(error, 'write')
    } else write.writtenTo = this.volume.store
    this.pumpNeeded = true
    this.asked.onWrittenHere(write, error !== undefined)
    this.peer.onOwnWritten(write)
    this.#maybeComplete(write)
  }

  /** The peer's verdict on a write of ours. False: no such write, the peer is confused. */
  onWriteAck(
    kind: 'recv' | 'written' | 'written-in-sync' | 'superseded' | 'retry',
    cookie: number,
    sector: number,
  ): boolean {
    const write = this.inFlight.get(cookie)
    if (write === undefined) return this.flushes.onAck(cookie)
    if (write.kind !== 'local-write' || write.sector !== sector) return false
    write.dataQueued = false
    if (kind === 'recv' && write.awaitsWriteAck) return true
    this.pumpNeeded = true
    if (kind === 'retry') {
      write.postponed = true
      write.postponedAtMs = this.volume.engine.nowMs
      write.peerPending = false
      // Without a disk the write that it is to wait for was refused, and nothing will tell when it is over.
      if (!this.volume.engine.connection.coprimePeer) this.#armRetryAlone()
      else if (this.peer.hasRefused && !this.#meetsPeerWrite(write)) this.#restartAgain(write)
      if (write.epoch !== undefined) write.epoch.withdrawn++
      this.inFlight.delete(cookie)
      this.retried++
      return true
    }
    if (kind === 'superseded') {
      if (write.epoch !== undefined) write.epoch.withdrawn++
      this.superseded++
    }
    this.inFlight.delete(cookie)
    write.peerPending = false
    write.onPeer = true
    write.maySetInSync = kind === 'written-in-sync'
    this.#maybeComplete(write)
    return true
  }

  /** The peer could not write it: the range is out of sync, the write succeeds if it did here. */
  onNegativeAck(cookie: number, sector: number, sizeBytes: number): void {
    const write = this.inFlight.get(cookie)
    if (write === undefined && this.flushes.onRefused(cookie)) return
    if (write === undefined || write.kind !== 'local-write' || write.sector !== sector) {
      if (sizeBytes > 0 && sizeBytes % 512 === 0 && this.volume.inRange(sector, sizeBytes / 512)) {
        const [from, to] = blocksTouched(sector, sizeBytes / 512)
        this.volume.bitmap?.set(from, to)
      }
      return
    }
    this.inFlight.delete(cookie)
    const [from, to] = blocksTouched(write.sector, write.sectors)
    this.volume.bitmap?.set(from, to)
    write.dataQueued = false
    write.peerPending = false
    write.onPeer = false
    write.refused = true
    this.pumpNeeded = true
    this.#maybeComplete(write)
  }

  /** Before the peer is sent the bitmap: a write that it got while it had no disk is refused, and we hear of that later. */
  markUnacknowledged(): void {
    for (const request of this.inFlight.values())
      if (request.kind === 'local-write') this.volume.bitmap?.set(...blocksTouched(request.sector, request.sectors))
  }

  /**
   * A kernel whose write we have acknowledged, but whose own disk is not done with it, tells us to send ours again after it. It
   * was applied here before, so nothing will come that could restart ours (observed). Sent again later it is a new write.
   */
  #armRetryAlone(): void {
    const { engine, number, sizeSectors } = this.volume
    const name = `retry-${number}`
    if (engine.timers.has(name)) return
    engine.timers.set(name, engine.nowMs + RETRY_ALONE_MS, () => {
      const postponed: LocalWrite[] = []
      this.active.forEachOverlap(0, sizeSectors, (request) => {
        if (request.kind === 'local-write' && request.postponed) postponed.push(request)
      })
      const due = postponed.filter(
        (write) =>
          write.postponedAtMs + RETRY_ALONE_MS <= engine.nowMs && !write.localPending && !this.#meetsPeerWrite(write),
      )
      for (const write of due) this.#restartAgain(write)
      if (due.length < postponed.length) this.#armRetryAlone()
    })
  }

  #meetsPeerWrite(write: LocalWrite): boolean {
    let meets = false
    this.active.forEachOverlap(write.sector, write.sectors, (present) => {
      if (present.kind === 'peer-write') meets = true
    })
    return meets
  }

  #restartAgain(write: LocalWrite): void {
    write.postponed = false
    this.#restarts.push(write)
    this.pumpNeeded = true
  }

  /** An overlapping write of the peer was applied: postponed writes under it go out again. */
  restartPostponed(sector: number, sectors: number): void {
    this.active.forEachOverlap(sector, sectors, (request) => {
      if (request.kind === 'local-write' && request.postponed && !request.localPending) this.#restartAgain(request)
    })
  }

  failWrite(write: LocalWrite, error: DiskError): void {
    this.#resent.delete(write)
    this.#releaseActivity(write)
    this.order.ended(write)
    this.release(write)
    this.volume.engine.clientDone(write.id, {
      code: error.code === 'no-space' ? 'no-space' : 'io',
      message: error.message,
    })
  }

  #maybeComplete(write: LocalWrite): void {
    if (write.localPending || write.peerPending || write.postponed || write.completed) return
    if (write.here !== 'free') {
      if (write.here === 'left') this.#maybeWriteAlone(write)
      return
    }
    if (isOnPeerOnly(write)) {
      if (this.volume.awaitsPeer) {
        this.#parked.push(write)
        return
      }
      if (!this.volume.peerCopiesCount) write.onPeer = false
    }
    if (write.localError !== undefined && !write.onPeer) {
      this.#failOrKeep(write, write.localError)
      return
    }
    if (!write.onPeer && !this.volume.mayCompleteAlone) {
      this.#completeLater(write)
      return
    }
    if (!write.onPeer && write.writtenTo !== this.volume.store) {
      // It went to the peer alone, and the disk that this host goes on with was attached later: the peer takes it nowhere.
      this.restart(write)
      return
    }
    write.completed = true
    if (this.#resent.size > 0) this.#resent.delete(write)
    if (write.maySetInSync && write.localError === undefined) {
      const [from, to] = blocksCovered(write.sector, write.sectors, this.volume.sizeSectors)
      if (from < to) this.resync.clearInSync(from, to)
    }
    this.#releaseActivity(write)
    this.release(write)
    this.volume.engine.connection.epochs.onCompletion(write.epoch)
    this.volume.engine.clientDone(write.id, undefined, undefined, !write.dataQueued && write.localError === undefined)
    this.order.ended(write)
  }

  /** Failed on the own disk and not on the peer: an error, unless such writes are to wait until there are data again. */
  #failOrKeep(write: LocalWrite, code: ClientErrorCode): void {
    const { volume } = this
    if (volume.engine.settings.onNoDataAccessible === 'suspend-io' && volume.dataAccessible) {
      if (volume.suspended || this.#inDoubt.has(write.cookie)) this.#parked.push(write)
      else this.restart(write)
      return
    }
    write.completed = true
    this.failWrite(write, {
      code: code === 'no-space' ? 'no-space' : 'io',
      message: `volume ${volume.number}: write failed on the own disk and is not on the peer`,
    })
  }

  /** The peer had no disk for it (one that has appeared since may take it), or may have it, or gets it with the resync. */
  #mayOnlyWait(write: LocalWrite): boolean {
    if (write.refused && write.startedAtMs >= this.volume.pdskSinceMs) return true
    return this.#inDoubt.has(write.cookie) || this.resync.awaitsTarget
  }

  /** Done here and not on the peer, and this host may not go on alone (yet). */
  #completeLater(write: LocalWrite): void {
    const volume = this.volume
    if (!volume.dataAccessible) {
      write.completed = true
      this.failWrite(write, { code: 'io', message: `volume ${volume.number}: the peer with the UpToDate data is lost` })
    } else if (volume.replicates && !this.#mayOnlyWait(write)) {
      this.#restarts.push(write)
      this.pumpNeeded = true
    } else this.#parked.push(write)
  }

  /** The link was lost before it was written here: this host does it alone as soon as it may. */
  #maybeWriteAlone(write: LocalWrite): void {
    const { volume } = this
    if (volume.mayWriteAlone) {
      write.onPeer = false
      volume.markOutOfSync(write.sector, write.sectors)
      this.asked.order(write)
    } else this.#completeLater(write)
  }

  #releaseActivity(write: LocalWrite): void {
    const { activity } = write
    write.activity = undefined
    activity?.release(write)
  }

  // ---- loss and return of the peer -----------------------------------------------------------------------------------------

  /** The link is gone. What the peer has not acknowledged counts as not on the peer; its blocks are out of sync already. */
  onPeerLost(): void {
    this.owed.clear()
    this.congestion.reset()
    this.pumpNeeded = true
    this.peer.onPeerLost()
    this.order.onPeerLost()
    // Bits that are set now, because the peer is lost, are not cleared by what was so before.
    for (const request of this.active) if (request.kind === 'local-write') request.maySetInSync = false
    const left = this.asked.onPeerLost()
    this.resync.onPeerLost()
    this.#waiting = this.#waiting.filter((request) => request.kind === 'local-read' || request.kind === 'local-write')
    const lost = [...this.inFlight.values()]
    this.inFlight.clear()
    for (const request of lost) {
      if (request.kind === 'local-read') {
        this.release(request)
        this.#retryRead(request)
      } else {
        request.peerPending = false
        request.onPeer = false
        this.#inDoubt.set(request.cookie, request)
        this.#maybeComplete(request)
      }
    }
    // It may have died before its disk knew that ours was lost, and come back without them.
    const parked = this.#parked
    this.#parked = []
    for (const request of parked) {
      if (request instanceof FlushRequest || !isOnPeerOnly(request)) this.#parked.push(request)
      else {
        request.onPeer = false
        this.#inDoubt.set(request.cookie, request)
        this.#maybeComplete(request)
      }
    }
    // Acknowledged already, but not written here: the peer need not be asked.
    for (const write of left) {
      if (this.#inDoubt.has(write.cookie)) continue
      this.#inDoubt.set(write.cookie, write)
      this.#maybeComplete(write)
    }
    // Postponed writes have nobody left to wait for.
    this.active.forEachOverlap(0, this.volume.sizeSectors, (request) => {
      if (request.kind === 'local-write' && request.postponed) {
        request.postponed = false
        this.#maybeComplete(request)
      }
    })
    this.flushes.onPeerLost()
  }

  /** This host may go on alone now (fenced, or the metadata is written): what was parked is complete. */
  completeParked(): void {
    // Without data all that is parked fails: there is nobody left to ask.
    const decided = this.volume.mayCompleteAlone || !this.volume.dataAccessible
    if (decided) this.#inDoubt.clear()
    const parked = this.#parked
    this.#parked = []
    for (const request of parked) {
      if (!(request instanceof FlushRequest)) this.#maybeComplete(request)
      else if (decided || (request.awaitsPeer && !this.volume.awaitsPeer)) this.flushes.request(request)
      else this.#parked.push(request)
    }
    this.flushes.onDoubtsSettled()
  }

  get hasDoubts(): boolean {
    return this.#inDoubt.size > 0
  }

  /** Writes are in doubt, or were and are being sent again. */
  get settlesDoubts(): boolean {
    return this.#inDoubt.size > 0 || this.#resent.size > 0
  }

  /** The peer came back before this host went on alone, and this host is the target: asks what became of its writes. */
  askInDoubt(): void {
    const payload = encodeCookies([...this.#inDoubt.keys()])
    this.volume.engine.connection.sendData({ type: 'P_IN_DOUBT', volume: this.volume.number, payload })
  }

  /** The peer's answer: these were applied and are done; the others were seen by nobody and are sent again, as new ones. */
  onApplied(payload: Uint8Array): void {
    for (const cookie of decodeCookies(payload)) {
      const write = this.#inDoubt.get(cookie)
      if (write !== undefined) write.onPeer = true
    }
    this.restartParked()
    this.flushes.onDoubtsSettled()
  }

  /**
   * The peer was Primary, and comes back without its memory: its clients may have seen what is in doubt here, and written
   * after it. Neither "done" nor sending it again would be the truth.
   */
  failDoubts(): void {
    const doubts = new Set(this.#inDoubt.values())
    this.#inDoubt.clear()
    this.#parked = this.#parked.filter((request) => request instanceof FlushRequest || !doubts.has(request))
    for (const write of doubts) {
      if (write.completed || write.localPending) continue
      write.completed = true
      this.failWrite(write, { code: 'io', message: 'the peer has crashed: it is not known whether it had this write' })
    }
  }

  /** What was parked and is not on the peer is sent again, as new requests. */
  restartParked(): void {
    for (const write of this.#inDoubt.values()) if (!write.onPeer && !write.completed) this.#resent.add(write)
    this.#inDoubt.clear()
    const parked = this.#parked
    this.#parked = []
    for (const request of parked) {
      if (request instanceof FlushRequest) this.flushes.request(request)
      else if (request.onPeer && (request.here === 'free' || this.volume.isTarget)) {
        // Not written here: its blocks are out of sync, and come with the resync.
        request.here = 'free'
        this.#maybeComplete(request)
      } else {
        request.here = 'free'
        this.#restarts.push(request)
      }
    }
    if (parked.length > 0) this.pumpNeeded = true
  }

  park(flush: FlushRequest): void {
    this.#parked.push(flush)
  }

  /** Start of the oldest request that the peer has not answered, or infinity. */
  get oldestUnansweredMs(): number {
    let oldest = Math.min(this.flushes.sentAtMs, this.order.oldestRequestMs, this.asked.oldestMs)
    for (const request of this.inFlight.values()) {
      oldest = Math.min(oldest, request.startedAtMs)
      break
    }
    return oldest
  }

  #cookie(): number {
    const cookie = this.#nextCookie
    this.#nextCookie = cookie >= 0xfffffffe ? 1 : cookie + 1
    return cookie
  }

  newCookie(): number {
    return this.#cookie()
  }
}

const isOnPeerOnly = (write: LocalWrite): boolean => write.onPeer && write.writtenTo === undefined

const overlaps = (a: { sector: number; sectors: number }, b: { sector: number; sectors: number }): boolean =>
  a.sector < b.sector + b.sectors && b.sector < a.sector + a.sectors
