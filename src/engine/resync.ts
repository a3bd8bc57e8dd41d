// Bitmap exchange and resync of one volume (wire-protocol.md section 8).
//
//   source                                      target
//   WFBitMapS  ── P_STATE, whole bitmap ──────▶ WFBitMapT: ORs it, writes it to disk
//              ◀──────────── merged bitmap ──── WFSyncUUID
//   SyncSource ── P_SYNC_UUID ────────────────▶ SyncTarget, Inconsistent
//              ◀── P_RS_DATA_REQUEST / THIN ─── walks its set bits
//              ── P_RS_DATA_REPLY / DEALLOC ──▶ writes, clears bits
//              ◀────────────── P_RS_WRITE_ACK ─ (source clears its bits)
//              ◀──── P_PING .. P_STATE ──────── last bit cleared: flush, metadata, UpToDate
//
// The merged bitmap is durable on the target before the first block is overwritten: the source clears its bits as blocks
// are acknowledged, and if the target then loses power, only the target's own bitmap on disk knows what may be stale.

import { blocksTouched } from '../meta/bitmap.ts'
import type { DiskError } from '../runtime/ports.ts'
import { BitmapReceiver, BitmapSender } from '../wire/drbd/bitmap-codec.ts'
import {
  C_CONNECTED,
  C_PAUSED_SYNC_S,
  C_PAUSED_SYNC_T,
  C_STARTING_SYNC_S,
  C_SYNC_SOURCE,
  C_SYNC_TARGET,
  C_WF_BITMAP_S,
  C_WF_BITMAP_T,
  D_INCONSISTENT,
} from '../wire/drbd/constants.ts'
import type { PacketOf } from '../wire/drbd/packets.ts'
import { BITMAP_WRITEBACK_MS, CHECKSUM_BYTES_MAX, REQUEST_BYTES_MAX, RESYNC_EXTENT_SECTORS } from './limits.ts'
import { mustWait, ResyncRequest } from './requests.ts'
import { ResyncPacer } from './resync-pacer.ts'
import type { VolumeIo } from './volume-io.ts'

const SYNCER_HI = 0xffffffff
const SYNCER_LO = 0xffffffff

export class Resync {
  readonly #io: VolumeIo
  readonly pacer: ResyncPacer
  #receiver: BitmapReceiver | undefined
  /** Next bit to ask for. */
  #cursor = 0
  /** Bits whose transfer failed in this run: the target cannot become UpToDate. */
  #failedBits = 0
  #inFlightBytes = 0
  readonly #requests = new Set<ResyncRequest>()
  /** Answered, waiting for the own disk to be free of what overlaps. */
  #toWrite: ResyncRequest[] = []
  #finishing = false
  /** As source: the target has asked for data, so its disk says that it is Inconsistent. */
  #targetHasBegun = false
  /** As source: until then nothing says that it may not go on alone with the data that it has. */
  #targetIsUnproven = false
  /** Counts the resyncs, so that what was asked for in one that has ended is not taken for a part of the next. */
  run = 0
  /** The same connection has seen a resync: acknowledgements and answers of it may be under way on the meta stream. */
  #hasStrays = false
  /** As source: blocks sent to the target that it has not acknowledged. */
  #offeredBits = 0
  #emptySinceMs = Number.POSITIVE_INFINITY
  /** For the rate limit: bytes that may still be asked for, refilled with time. */
  #creditBytes = 0
  #creditAtMs = 0
  totalBits = 0
  sentBytes = 0
  receivedBytes = 0
  holeBytes = 0
  /** As target: not transferred, because the checksums were equal. */
  equalBytes = 0

  constructor(io: VolumeIo) {
    this.#io = io
    const { resyncPace, resyncRateMaxKib, resyncRateMinKib } = io.volume.settings
    this.pacer = new ResyncPacer(resyncPace, { maxKib: resyncRateMaxKib, minKib: resyncRateMinKib })
  }

  get failedBits(): number {
    return this.#failedBits
  }

  /** When the oldest request that the source has not answered was sent, or infinity. */
  get oldestUnansweredMs(): number {
    let oldest = Number.POSITIVE_INFINITY
    for (const request of this.#requests) if (!request.answered) oldest = Math.min(oldest, request.sentAtMs)
    return oldest
  }

  /** As source: since when nothing is left to do but to hear from the target that it is done, or infinity. To be asked now and then. */
  sinceEndIsAwaitedMs(): number {
    const { bitmap, engine, state } = this.#io.volume
    const isAwaited = state.conn === C_SYNC_SOURCE && bitmap !== undefined && bitmap.count <= this.#failedBits
    this.#emptySinceMs = isAwaited ? Math.min(this.#emptySinceMs, engine.nowMs) : Number.POSITIVE_INFINITY
    return this.#emptySinceMs
  }

  // ---- bitmap exchange ------------------------------------------------------------------------------------------------

  /** Sends the whole bitmap in one go; writes that start later are sent as P_OUT_OF_SYNC. */
  sendBitmap(): void {
    const { volume } = this.#io
    const { bitmap, engine } = volume
    if (bitmap === undefined) return
    if (volume.state.conn === C_WF_BITMAP_S) this.#io.markUnacknowledged()
    const { connection } = engine
    const useRle = engine.settings.useRle && connection.apv >= 90
    const sender = new BitmapSender(bitmap, { useRle, apv: connection.apv })
    for (let packet = sender.next(); packet !== undefined; packet = sender.next()) {
      connection.sendData({ ...packet, volume: volume.number })
    }
  }

  /** A new exchange: what is left of a stray transfer is forgotten. */
  awaitBitmap(): void {
    this.#receiver = undefined
  }

  onBitmapPacket(packet: PacketOf<'P_BITMAP'> | PacketOf<'P_COMPRESSED_BITMAP'>): void {
    const { volume } = this.#io
    const { bitmap } = volume
    if (bitmap === undefined) return
    this.#receiver ??= new BitmapReceiver(bitmap.bits, { apv: volume.engine.connection.apv }, (from, to) => {
      bitmap.set(from, to)
    })
    if (!this.#receiver.onPacket(packet)) return
    this.#receiver = undefined
    if (volume.state.conn === C_WF_BITMAP_T) this.#onSourceBitmap()
    else if (volume.state.conn === C_WF_BITMAP_S) volume.resyncBounds.beginAsSource()
  }

  #onSourceBitmap(): void {
    const { volume } = this.#io
    const session = volume.engine.connection.session
    const { bitmap } = volume
    if (bitmap === undefined) return
    volume.store?.writeBitmap(bitmap, 'changed', (error) => {
      if (error !== undefined || session !== volume.engine.connection.session || volume.state.conn !== C_WF_BITMAP_T)
        return
      this.sendBitmap()
      volume.resyncBounds.onTargetBitmapSent()
    })
  }

  // ---- common ----------------------------------------------------------------------------------------------------------

  start(): void {
    const { volume } = this.#io
    this.#cursor = 0
    this.#failedBits = 0
    this.#offeredBits = 0
    this.#targetHasBegun = false
    this.#finishing = false
    this.#creditBytes = 0
    this.#creditAtMs = volume.engine.nowMs
    this.pacer.start(volume.engine.nowMs)
    this.totalBits = volume.bitmap?.count ?? 0
    volume.engine.log(
      'info',
      `resync as ${volume.isTarget ? 'target' : 'source'} begins: ${this.totalBits} blocks of 4 KiB differ`,
      volume.number,
    )
    this.#armWriteback()
    if (volume.state.conn === C_SYNC_TARGET) this.advance()
  }

  stop(): void {
    const { volume } = this.#io
    this.totalBits = 0
    volume.engine.timers.clear(this.#timer('bitmap'))
    volume.engine.timers.clear(this.#timer('rate'))
    this.run++
    this.#finishing = false
    this.#hasStrays = volume.state.conn >= C_CONNECTED
    this.#abandonRequests()
  }

  onPeerLost(): void {
    this.#receiver = undefined
    this.stop()
  }

  /**
   * Before a resync begins: the ping carries what is left of an earlier one on the meta stream through the peer. A block may have been
   * written since, and an acknowledgement that is late would clear its bit.
   */
  whenSettled(done: () => void): void {
    if (!this.#hasStrays) {
      done()
      return
    }
    this.#io.volume.engine.connection.pingThen(() => {
      this.#hasStrays = false
      done()
    })
  }

  #abandonRequests(): void {
    for (const request of [...this.#requests]) {
      if (!request.writing && !request.checksumming) this.#drop(request)
      else {
        // It stays in the disk queue, and in the way of others, but its completion means nothing any more.
        this.#requests.delete(request)
        this.#inFlightBytes -= request.sectors * 512
      }
    }
    this.#toWrite = []
  }

  /** A block is the same on both sides now. */
  clearInSync(fromBit: number, toBit: number): void {
    const { volume } = this.#io
    if ((volume.bitmap?.clear(fromBit, toBit) ?? 0) > 0) this.#checkFinished()
  }

  /** The source found the target's checksum equal. */
  onPeerInSync(sector: number, sectors: number): void {
    const [from, to] = blocksTouched(sector, sectors)
    this.clearInSync(from, to)
  }

  // ---- target ----------------------------------------------------------------------------------------------------------

  /** Asks for more as far as the window allows. */
  advance(): void {
    const { volume } = this.#io
    const { bitmap } = volume
    if (bitmap === undefined || volume.state.conn !== C_SYNC_TARGET) return
    const window = this.pacer.windowBytes(this.#isBusy, volume.engine.nowMs)
    while (this.#inFlightBytes < window) {
      const from = bitmap.nextSet(this.#cursor)
      if (from >= bitmap.bits) {
        if (this.#cursor === 0 || this.#requests.size > 0) break
        // Once more from the start: a request may have been cancelled, or a block marked behind the cursor.
        this.#cursor = 0
        if (bitmap.count <= this.#failedBits) break
        continue
      }
      const to = this.#requestEnd(from)
      if (!this.takeCredit((to - from) * 4096, () => this.advance())) break
      this.#cursor = to
      const sector = from * 8
      const sectors = Math.min(to * 8, volume.sizeSectors) - sector
      const request = new ResyncRequest(this.#io, sector, sectors)
      this.#requests.add(request)
      this.#inFlightBytes += sectors * 512
      this.#io.enqueueLocal(request)
    }
    this.#checkFinished()
  }

  /** Clients are at work, or wait for the end of what they asked for. */
  get #isBusy(): boolean {
    return this.#io.busy || (this.pacer.isDynamic && !this.#io.quiet)
  }

  get #byChecksum(): boolean {
    const { settings, connection } = this.#io.volume.engine
    return settings.csumsAlg !== '' && connection.apv >= 89
  }

  /** Merges adjacent set bits: up to what an answer can carry (1 MiB), aligned to its size, inside 16 MiB (8.3). */
  #requestEnd(from: number): number {
    const { bitmap, engine } = this.#io.volume
    if (bitmap === undefined) return from
    const run = bitmap.nextClear(from)
    const extentEnd = (Math.floor((from * 8) / RESYNC_EXTENT_SECTORS) + 1) * (RESYNC_EXTENT_SECTORS / 8)
    const bytesMax = Math.min(
      engine.connection.writeBytesMax,
      this.#byChecksum ? CHECKSUM_BYTES_MAX : this.pacer.requestBytesMax(this.#isBusy, engine.nowMs),
    )
    const limit = Math.min(run, extentEnd, from + bytesMax / 4096)
    let bits = 1
    while (from % (bits * 2) === 0 && from + bits * 2 <= limit) bits *= 2
    return from + bits
  }

  /** The administrator's rate limit as a bucket that holds a tenth of a second; `again` is called when there may be more. */
  takeCredit(bytes: number, again: () => void): boolean {
    const { volume } = this.#io
    const rate = this.pacer.rateMaxKib * 1024
    if (rate === 0) return true
    const now = volume.engine.nowMs
    this.#creditBytes = Math.min(
      this.#creditBytes + ((now - this.#creditAtMs) * rate) / 1000,
      Math.max(rate / 10, REQUEST_BYTES_MAX),
    )
    this.#creditAtMs = now
    if (this.#creditBytes < bytes) {
      const waitMs = Math.max(1, ((bytes - this.#creditBytes) * 1000) / rate)
      volume.engine.timers.set(this.#timer('rate'), now + waitMs, again)
      return false
    }
    this.#creditBytes -= bytes
    return true
  }

  /** No own write is under way there, and none starts before the answer is written. */
  sendRequest(request: ResyncRequest): void {
    const { volume } = this.#io
    if (!this.#requests.has(request)) {
      // It waited longer than its resync lasted.
      this.#io.release(request)
      return
    }
    if (!this.#byChecksum) {
      this.#ask(request)
      return
    }
    request.checksumming = true
    volume.engine.emit({
      type: 'disk.read',
      volume: volume.number,
      offsetBytes: request.sector * 512,
      lengthBytes: request.sectors * 512,
      op: request,
    })
  }

  /** The source compares: equal data need not be sent (8.5). Own data that cannot be read are asked for as they are. */
  onChecksumRead(request: ResyncRequest, error: DiskError | undefined, data: Uint8Array | undefined): void {
    const { volume } = this.#io
    const { engine } = volume
    request.checksumming = false
    this.#io.pumpNeeded = true
    if (!this.#requests.has(request)) {
      this.#io.release(request)
      return
    }
    if (error !== undefined || data === undefined) {
      if (error !== undefined) volume.onDataError(error, 'read')
      if (this.#requests.has(request)) this.#ask(request)
      return
    }
    request.sentAtMs = engine.nowMs
    engine.connection.sendData({
      type: 'P_CSUM_RS_REQUEST',
      volume: volume.number,
      sector: request.sector,
      blockIdHi: SYNCER_HI,
      blockIdLo: SYNCER_LO,
      sizeBytes: request.sectors * 512,
      digest: engine.digests.digest(engine.settings.csumsAlg, data),
    })
  }

  #ask(request: ResyncRequest): void {
    const { volume } = this.#io
    const { connection } = volume.engine
    request.sentAtMs = volume.engine.nowMs
    connection.sendData({
      type: connection.hasThinResync ? 'P_RS_THIN_REQ' : 'P_RS_DATA_REQUEST',
      volume: volume.number,
      sector: request.sector,
      blockIdHi: SYNCER_HI,
      blockIdLo: SYNCER_LO,
      sizeBytes: request.sectors * 512,
    })
  }

  /** Data, or zeroes (undefined), for a range that was asked for. False: nobody asked for it. */
  onAnswer(sector: number, sizeBytes: number, data: Uint8Array | undefined): boolean {
    const request = this.#find(sector, sizeBytes)
    if (request === undefined) return false
    request.answered = true
    request.data = data
    this.#onAnswered(request)
    if (data === undefined) this.holeBytes += sizeBytes
    else this.receivedBytes += sizeBytes
    this.#io.volume.receivedBytes += data === undefined ? 0 : sizeBytes
    this.#toWrite.push(request)
    this.pumpWrites()
    return true
  }

  onNegativeAnswer(sector: number, sizeBytes: number, failed: boolean): boolean {
    const request = this.#find(sector, sizeBytes)
    if (request === undefined) return false
    if (failed) this.#failedBits += Math.ceil(request.sectors / 8)
    this.#drop(request)
    this.advance()
    return true
  }

  onInSync(sector: number, sizeBytes: number): boolean {
    const request = this.#find(sector, sizeBytes)
    if (request === undefined) return false
    const [from, to] = blocksTouched(request.sector, request.sectors)
    this.equalBytes += sizeBytes
    this.#onAnswered(request)
    this.#drop(request)
    this.clearInSync(from, to)
    this.advance()
    return true
  }

  #onAnswered(request: ResyncRequest): void {
    const { nowMs } = this.#io.volume.engine
    const delayMs = nowMs - request.sentAtMs
    this.pacer.onAnswer({ bytes: request.sectors * 512, delayMs, inFlightBytes: this.#inFlightBytes }, nowMs)
  }

  /** Writes answers that nothing at the disk overlaps. */
  pumpWrites(): void {
    if (this.#toWrite.length === 0) return
    const waiting = this.#toWrite
    this.#toWrite = []
    for (const request of waiting) {
      let blocked = false
      this.#io.active.forEachOverlap(request.sector, request.sectors, (present) => {
        if (present !== request && mustWait('resync-write', present, true)) blocked = true
      })
      if (blocked) this.#toWrite.push(request)
      else this.#write(request)
    }
  }

  onResyncWriteDone(request: ResyncRequest, error: DiskError | undefined): void {
    const { volume } = this.#io
    const { connection } = volume.engine
    request.writing = false
    const known = this.#requests.has(request)
    if (known) this.#drop(request)
    else this.#io.release(request)
    if (!known || (volume.state.conn !== C_SYNC_TARGET && volume.state.conn !== C_PAUSED_SYNC_T)) return
    if (error !== undefined) {
      this.#failedBits += Math.ceil(request.sectors / 8)
      connection.sendMeta(this.#resyncAck('P_NEG_ACK', request))
      volume.onDataError(error, 'write')
      return
    }
    connection.sendMeta(this.#resyncAck('P_RS_WRITE_ACK', request))
    const [from, to] = blocksTouched(request.sector, request.sectors)
    volume.bitmap?.clear(from, to)
    this.advance()
  }

  #write(request: ResyncRequest): void {
    const { volume } = this.#io
    if (request.data === undefined && volume.isHole(request.sector, request.sectors)) {
      request.writing = true
      this.onResyncWriteDone(request, undefined)
      return
    }
    request.writing = true
    const offsetBytes = request.sector * 512
    const { data } = request
    request.data = undefined
    if (data !== undefined)
      volume.engine.emit({
        type: 'disk.write',
        volume: volume.number,
        offsetBytes,
        data,
        op: request,
        lastUse: true,
      })
    else
      volume.engine.emit({
        type: 'disk.zero',
        volume: volume.number,
        offsetBytes,
        lengthBytes: request.sectors * 512,
        unmap: true,
        op: request,
      })
  }

  #resyncAck(
    type: 'P_NEG_ACK' | 'P_RS_WRITE_ACK',
    request: ResyncRequest,
  ): PacketOf<'P_NEG_ACK'> | PacketOf<'P_RS_WRITE_ACK'> {
    const { volume } = this.#io
    return {
      type,
      volume: volume.number,
      sector: request.sector,
      blockIdHi: SYNCER_HI,
      blockIdLo: SYNCER_LO,
      sizeBytes: request.sectors * 512,
      sequence: volume.nextSequence(),
    }
  }

  #find(sector: number, sizeBytes: number): ResyncRequest | undefined {
    for (const request of this.#requests) {
      if (request.sector === sector && request.sectors * 512 === sizeBytes && request.active && !request.answered)
        return request
    }
    return undefined
  }

  #drop(request: ResyncRequest): void {
    if (!this.#requests.delete(request)) return
    this.#inFlightBytes -= request.sectors * 512
    this.#io.release(request)
  }

  /** Target: all bits are cleared, or only failed ones are left. */
  #checkFinished(): void {
    const { volume } = this.#io
    const { bitmap, state } = volume
    if (bitmap === undefined || this.#finishing || state.conn !== C_SYNC_TARGET || this.#requests.size > 0) return
    if (bitmap.count > this.#failedBits) return
    this.#finishing = true
    const { run } = this
    // The ping carries all acknowledgements before it through the peer; the final P_STATE must not overtake them (8.6).
    volume.engine.connection.pingThen(() => {
      if (run !== this.run || volume.state.conn !== C_SYNC_TARGET) return
      this.#finishing = false
      if (bitmap.count > this.#failedBits) {
        this.advance()
        return
      }
      volume.resyncBounds.finishAsTarget(this.#failedBits)
    })
  }

  // ---- source ----------------------------------------------------------------------------------------------------------

  /**
   * `unproven`: the two had the same data, as far as their metadata know, and this host has not gone on alone since. A later attempt
   * counts as proven: it goes by way of the bitmaps, and a target has noted durably that it is Outdated before it sends its own.
   */
  aboutToBeSource(unproven: boolean): void {
    this.#targetHasBegun = false
    this.#targetIsUnproven = unproven
  }

  /** Or has said that its disk is Inconsistent. */
  onTargetAsks(): void {
    if (this.#targetHasBegun) return
    this.#targetHasBegun = true
    if (this.#targetIsUnproven) this.#io.volume.onTargetHasBegun()
  }

  /**
   * As source: what the target does not have may not be answered yet, though this host's metadata say that its data are newer. The
   * target may be UpToDate still; if the link is lost now it may fence this host and go on.
   */
  get awaitsTarget(): boolean {
    if (!this.#targetIsUnproven || this.#targetHasBegun) return false
    const { engine, state } = this.#io.volume
    // A kernel asks for nothing while it is paused, and does not say either that it is Inconsistent.
    if (state.conn === C_PAUSED_SYNC_S) return engine.connection.coprimePeer
    return state.conn === C_STARTING_SYNC_S || state.conn === C_WF_BITMAP_S || state.conn === C_SYNC_SOURCE
  }

  onOffered(sector: number, sectors: number): void {
    const [from, to] = blocksTouched(sector, sectors)
    this.#offeredBits += to - from
  }

  /**
   * As source: the target may be UpToDate, and about to go on alone if the connection is lost now. It has not said that it begins; or
   * all that it needs is on its way, and not acknowledged, and it may be done.
   */
  get targetMayBeUpToDate(): boolean {
    const { bitmap, state } = this.#io.volume
    if (bitmap === undefined || (state.conn !== C_SYNC_SOURCE && state.conn !== C_PAUSED_SYNC_S)) return false
    if (!this.#targetHasBegun) return true
    let missing = bitmap.count - this.#offeredBits
    for (const request of this.#io.active) {
      if (missing <= 0) break
      if (request.kind !== 'local-write') continue
      const [from, to] = blocksTouched(request.sector, request.sectors)
      missing -= to - from
    }
    return missing <= 0
  }

  onTargetAck(sector: number, sizeBytes: number, written: boolean): void {
    const { volume } = this.#io
    const { conn } = volume.state
    if (conn !== C_SYNC_SOURCE && conn !== C_PAUSED_SYNC_S) return
    if (!volume.inRange(sector, sizeBytes / 512) || sizeBytes === 0) return
    const [from, to] = blocksTouched(sector, sizeBytes / 512)
    this.#offeredBits = Math.max(0, this.#offeredBits - (to - from))
    if (written) volume.bitmap?.clear(from, to)
    else this.#failedBits += to - from
  }

  // ---- bitmap on disk ----------------------------------------------------------------------------------------------------

  /** Changed blocks go to disk lazily while a resync runs: after a crash less has to be done again. */
  #armWriteback(): void {
    const { volume } = this.#io
    const { timers } = volume.engine
    const again = (): void => {
      const { conn } = volume.state
      if (conn !== C_SYNC_SOURCE && conn !== C_SYNC_TARGET && conn !== C_PAUSED_SYNC_S && conn !== C_PAUSED_SYNC_T)
        return
      if (volume.bitmap !== undefined && volume.bitmap.dirtyBlocks > 0 && volume.state.disk >= D_INCONSISTENT) {
        volume.store?.writeBitmap(volume.bitmap, 'changed')
      }
      volume.engine.statusChanged()
      timers.set(this.#timer('bitmap'), volume.engine.nowMs + BITMAP_WRITEBACK_MS, again)
    }
    timers.set(this.#timer('bitmap'), volume.engine.nowMs + BITMAP_WRITEBACK_MS, again)
  }

  #timer(name: string): string {
    return `resync-${name}-${this.#io.volume.number}`
  }
}
