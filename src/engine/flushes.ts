// Flushes of one volume: the own disk's fdatasync and an empty P_DATA with DP_FLUSH to the peer (docs/decisions/002), one
// round at a time; requests that come during a round are served together by the next one.

import type { DiskError } from '../runtime/ports.ts'
import {
  D_INCONSISTENT,
  D_UPTODATE,
  DP_FLUSH,
  DP_RW_SYNC,
  DP_SEND_WRITE_ACK,
  R_PRIMARY,
} from '../wire/drbd/constants.ts'
import type { DiskOp } from './effects.ts'
import { PEER_FLUSH_INTERVAL_MS, PEER_FLUSH_WRITES_MAX } from './limits.ts'
import type { Stability } from './stability.ts'
import type { VolumeIo } from './volume-io.ts'

const EMPTY = new Uint8Array(0)

/** A client's flush, or one of our own (id -1) that makes the peer's copies stable. */
export class FlushRequest {
  readonly kind = 'flush'
  readonly id: number
  readonly io: VolumeIo
  /** Of one of our own: both disks are to be flushed, and somebody waits for it. */
  readonly onEnd: (() => void) | undefined
  /** The peer alone has flushed, and may have done so before its disk knew that ours is lost. */
  awaitsPeer = false

  constructor(io: VolumeIo, id: number, onEnd?: () => void) {
    this.io = io
    this.id = id
    this.onEnd = onEnd
  }
}

export class Flushes implements DiskOp {
  readonly #io: VolumeIo
  #next: FlushRequest[] = []
  #running: FlushRequest[] = []
  #roundRunning = false
  #localPending = false
  #peerCookie = 0
  #sentToPeer = false
  /** Of the disk that was attached when the round began: another one knows nothing of it. */
  #stability: Stability | undefined
  #onPeer = false
  #failed = false
  /** The own disk had all that was answered when the round began, and has not failed to flush it. */
  #onOwn = false
  sentAtMs = Number.POSITIVE_INFINITY
  /** Writes handed to the peer; how many of them the running round covers; and how many a flush of the peer has covered. */
  #written = 0
  #covering = 0
  #stable = 0
  /** Writes handed to the peer since it was flushed last. */
  #sinceFlush = 0
  /**
   * The peer had the only good data, and lost its power before they were flushed: no flush can vouch any more for what was
   * written. It stays so until nobody is left who was told that his writes are done (docs/decisions/012).
   */
  #lost = false

  constructor(io: VolumeIo) {
    this.#io = io
  }

  get quiet(): boolean {
    return !this.#roundRunning && this.#next.length === 0
  }

  request(flush: FlushRequest): void {
    this.#next.push(flush)
    if (!this.#roundRunning && !this.#io.hasDoubts) this.#startRound()
  }

  /** While writes are in doubt no flush is sent: with it the peer would forget which of them it applied. */
  onDoubtsSettled(): void {
    if (!this.#roundRunning && !this.#io.hasDoubts && this.#next.length > 0) this.#startRound()
  }

  /** Both disks, for one of our own; `onEnd` also if the peer or a disk is lost meanwhile. */
  requestBoth(onEnd: () => void): void {
    this.request(new FlushRequest(this.#io, -1, onEnd))
  }

  /** A round without a client, so that the peer's copies become stable. */
  requestOwn(): void {
    if (this.#next.length === 0) this.request(new FlushRequest(this.#io, -1))
  }

  onDisk(error: DiskError | undefined): void {
    this.#localPending = false
    if (error !== undefined) {
      this.#failed = true
      this.#onOwn = false
      this.#io.volume.onDataError(error, 'flush')
    }
    this.#finishRound()
  }

  onAck(cookie: number): boolean {
    if (cookie === 0 || cookie !== this.#peerCookie) return false
    this.#peerCookie = 0
    this.sentAtMs = Number.POSITIVE_INFINITY
    this.#onPeer = true
    this.#stable = this.#covering
    if (this.#stability === this.#io.volume.stability) this.#onPeerFlushed()
    this.#finishRound()
    return true
  }

  /** The peer could not flush: its disk is about to be given up; who asked waits for what the peer says of it. */
  onRefused(cookie: number): boolean {
    if (cookie === 0 || cookie !== this.#peerCookie) return false
    this.#peerCookie = 0
    this.sentAtMs = Number.POSITIVE_INFINITY
    if (this.#stability === this.#io.volume.stability) this.#stability?.flushFailed()
    this.#finishRound()
    return true
  }

  /** A while after a write was handed to the peer it is asked to flush, so that little is out of sync if it is lost later. */
  onWriteSent(): void {
    this.#written++
    if (++this.#sinceFlush === PEER_FLUSH_WRITES_MAX) this.requestOwn()
    const { volume } = this.#io
    const { timers, nowMs } = volume.engine
    const name = `peer-flush-${volume.number}`
    if (timers.has(name)) return
    timers.set(name, nowMs + PEER_FLUSH_INTERVAL_MS, () => {
      if (volume.replicates && volume.stability?.anyMarked === true) this.requestOwn()
    })
  }

  #onPeerFlushed(): void {
    this.#sinceFlush = 0
    this.#io.volume.onPeerFlushed()
  }

  /** The peer is back, and its machine was off meanwhile. */
  onPeerRebooted(): void {
    const { volume } = this.#io
    const { role, disk } = volume.state
    if (role !== R_PRIMARY || disk >= D_UPTODATE || this.#stable === this.#written) return
    this.#lost = true
    const what =
      'the machine with the only UpToDate data was restarted, and writes that no flush had covered may be lost'
    volume.engine.log('error', `${what}: flushes fail until the device is closed`, volume.number)
  }

  forgetLoss(): void {
    this.#lost = false
  }

  onPeerLost(): void {
    if (this.#peerCookie === 0) return
    this.#peerCookie = 0
    this.sentAtMs = Number.POSITIVE_INFINITY
    this.#finishRound()
  }

  #complete(flush: FlushRequest): void {
    const { engine } = this.#io.volume
    if (flush.id < 0) flush.onEnd?.()
    else if (!this.#lost) engine.clientDone(flush.id, undefined)
    else
      engine.clientDone(flush.id, {
        code: 'io',
        message: 'the peer lost its power, and with it perhaps writes that were done and not flushed',
      })
  }

  #startRound(): void {
    const volume = this.#io.volume
    const { engine } = volume
    this.#roundRunning = true
    this.#running = this.#next
    this.#next = []
    this.#failed = false
    this.#onPeer = false
    this.#onOwn = volume.state.disk === D_UPTODATE
    this.#sentToPeer = volume.replicates
    if (this.#sentToPeer && !engine.connection.flushesPeer) {
      // What it acknowledged counts as stable: nothing better is to be had from it.
      volume.stability?.flushSent()
      this.#onPeerFlushed()
      this.#onPeer = true
    } else if (this.#sentToPeer) {
      this.#peerCookie = this.#io.newCookie()
      this.sentAtMs = engine.nowMs
      this.#covering = this.#written
      const epoch = engine.connection.epochs.assign(undefined)
      engine.connection.sendFlush({
        type: 'P_DATA',
        volume: volume.number,
        sector: 0,
        blockIdHi: 0,
        blockIdLo: this.#peerCookie,
        sequence: volume.nextSequence(),
        flags: DP_FLUSH | DP_RW_SYNC | DP_SEND_WRITE_ACK,
        digest: engine.connection.integrityDigest(EMPTY),
        payload: EMPTY,
      })
      engine.connection.epochs.sent(epoch)
      this.#stability = volume.stability
      volume.stability?.flushSent()
    }
    // A round of our own is for the peer's disk only.
    const forBoth = this.#running.some((flush) => flush.id >= 0 || flush.onEnd !== undefined)
    this.#localPending = volume.state.disk >= D_INCONSISTENT && forBoth
    if (this.#localPending) engine.emit({ type: 'disk.flush', volume: volume.number, op: this })
    else this.#finishRound()
  }

  #finishRound(): void {
    if (this.#localPending || this.#peerCookie !== 0 || !this.#roundRunning) return
    const { volume } = this.#io
    const running = this.#running
    this.#running = []
    this.#roundRunning = false
    for (const flush of running) {
      if (flush.id < 0 && flush.onEnd === undefined) continue
      flush.awaitsPeer = flush.id >= 0 && this.#onPeer && !this.#onOwn && volume.awaitsPeer
      if (flush.awaitsPeer) this.#io.park(flush)
      else if (flush.id < 0 || (this.#onPeer && (this.#onOwn || volume.peerCopiesCount))) this.#complete(flush)
      else if (!volume.dataAccessible || (this.#failed && !volume.suspended))
        volume.engine.clientDone(flush.id, { code: 'io', message: 'flush failed on the own disk and on the peer' })
      else if (!this.#failed && volume.mayCompleteAlone) this.#complete(flush)
      // A resync has ended meanwhile: the peer has a part in it now.
      else if (!this.#sentToPeer && volume.replicates) this.#next.push(flush)
      else this.#io.park(flush)
    }
    if (this.#next.length > 0 && !this.#io.hasDoubts) this.#startRound()
  }
}
