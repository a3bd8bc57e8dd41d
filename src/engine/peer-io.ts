// What the peer asks of our disk: its writes, and its reads for clients, resync and verify.
//
// A write of the peer is registered the moment it is received; from then on no overlapping write of ours starts. It is
// judged by the order in force, waits for reads and writes that are at the disk already, is applied, acknowledged, and only
// then taken out. Towards a kernel peer the order of epochs is kept as well: a write waits until all earlier epochs are
// written (and flushed), because a kernel Primary relies on it for its own flushes (wire-protocol.md 6.4, 6.5).

import { blocksCovered, blocksTouched } from '../meta/bitmap.ts'
import type { DiskError } from '../runtime/ports.ts'
import {
  C_AHEAD,
  C_PAUSED_SYNC_T,
  C_SYNC_SOURCE,
  D_INCONSISTENT,
  D_UPTODATE,
  DP_ASKS_FIRST,
  DP_DISCARD,
  DP_FLUSH,
  DP_FUA,
  DP_MAY_SET_IN_SYNC,
  DP_SEND_RECEIVE_ACK,
  DP_SEND_WRITE_ACK,
  NF_ALONE,
  NF_WRITTEN,
} from '../wire/drbd/constants.ts'
import type { PacketOf } from '../wire/drbd/packets.ts'
import type { DiskOp } from './effects.ts'
import type { ReceivedEpoch } from './epochs.ts'
import { AppliedWrites, decodeCookies, encodeCookies } from './in-doubt.ts'
import { RETRY_OWED_MS } from './limits.ts'
import { type LocalWrite, mustWait, PeerRead, type PeerReadPurpose, PeerWrite } from './requests.ts'
import type { VolumeIo } from './volume-io.ts'

type DataPacket = PacketOf<'P_DATA'> | PacketOf<'P_TRIM'> | PacketOf<'P_ZEROES'> | PacketOf<'P_WSAME'>

/** An empty flush of the peer: acknowledged when all its earlier writes are on disk and the disk is flushed. */
class PeerFlush implements DiskOp {
  readonly #io: PeerIo
  readonly packet: DataPacket
  readonly epoch: ReceivedEpoch
  /** Writes received before it that are not applied yet, and own ones that stand for such as were superseded. */
  readonly waitsFor: Set<PeerWrite | LocalWrite>

  constructor(io: PeerIo, packet: DataPacket, epoch: ReceivedEpoch, waitsFor: Set<PeerWrite | LocalWrite>) {
    this.#io = io
    this.packet = packet
    this.epoch = epoch
    this.waitsFor = waitsFor
  }

  onDisk(error: DiskError | undefined): void {
    this.#io.onPeerFlushDone(this, error)
  }
}

export class PeerIo {
  readonly #io: VolumeIo
  /** Received, not applied and acknowledged. */
  readonly pending = new Set<PeerWrite>()
  /** Of these, those not yet handed to the disk. */
  #waiting: PeerWrite[] = []
  #flushes: PeerFlush[] = []
  /** Of the peer's present process; another one begins its block ids anew. */
  #applied = new AppliedWrites()
  /** Own writes, not at the own disk yet, that superseded writes of the peer: a flush that follows covers them instead. */
  readonly #winners = new Set<LocalWrite>()
  /** Asked while writes of the lost connection were still at the disk. */
  #askedInDoubt: readonly number[] | undefined
  /** Asked first, ordered, and not known to be on the peer's disk, by block id. */
  readonly #unconfirmed = new Map<number, PeerWrite>()
  #position = 0
  pendingBytes = 0
  writeNows = 0
  /** Received since start. */
  writeRequests = 0
  /** Writes of this connection were refused for want of a disk. */
  hasRefused = false

  constructor(io: VolumeIo) {
    this.#io = io
  }

  /** Writes of a peer without a disk are under way. */
  get hasOnlyCopies(): boolean {
    for (const write of this.pending) if (write.onlyCopy) return true
    return false
  }

  // ---- writes ----------------------------------------------------------------------------------------------------------

  onData(packet: DataPacket): void {
    const io = this.#io
    const { volume } = io
    const { connection } = volume.engine
    const sizeBytes = packet.type === 'P_DATA' ? packet.payload.length : packet.sizeBytes
    const epoch = connection.receivedEpochs.received()
    if ((packet.flags & DP_ASKS_FIRST) !== 0 && !io.order.mayBeAsked) {
      connection.protocolError(`the peer asks for the order of its write, which this host does not decide`)
      return
    }
    const { disk, pdsk } = volume.state
    // The only copy may not stand on data that are known to be old: the next disk that is good would overwrite it.
    if (disk < D_INCONSISTENT || (pdsk < D_INCONSISTENT && disk < D_UPTODATE)) {
      this.#refuse(packet, sizeBytes, epoch)
      return
    }
    if (packet.type === 'P_DATA' && sizeBytes === 0) {
      this.#onFlush(packet, epoch)
      return
    }
    const wantsReceipt =
      connection.apv >= 100 ? (packet.flags & DP_SEND_RECEIVE_ACK) !== 0 : volume.engine.settings.protocol === 'B'
    if (wantsReceipt) this.#ack('P_RECV_ACK', packet, sizeBytes)
    let data: Uint8Array | undefined
    if (packet.type === 'P_DATA') data = packet.payload
    else if (packet.type === 'P_WSAME') data = repeat(packet.payload, sizeBytes)
    const unmap = packet.type === 'P_TRIM' || (packet.type === 'P_ZEROES' && (packet.flags & DP_DISCARD) !== 0)
    const write = new PeerWrite(io, packet, sizeBytes, data, unmap, epoch, this.nextPosition())
    if (volume.engine.settings.allowTwoPrimaries && connection.coprimePeer) write.appliedList = this.#applied
    write.onlyCopy = pdsk < D_INCONSISTENT
    // At once: a resync that begins before it is applied has to know of it.
    if (write.onlyCopy) volume.markOutOfSync(write.sector, write.sectors)
    io.activate(write)
    this.writeRequests++
    this.pending.add(write)
    this.pendingBytes += data === undefined ? 0 : sizeBytes
    volume.receivedBytes += sizeBytes
    this.#settleOwed(write)
    if (!this.#trySubmit(write)) this.#waiting.push(write)
  }

  /** Judges and submits what waits, oldest first. */
  pump(): void {
    if (this.#waiting.length > 0) {
      const waiting = this.#waiting
      this.#waiting = []
      for (const write of waiting) if (!this.#trySubmit(write)) this.#waiting.push(write)
    }
    this.#io.resync.pumpWrites()
    this.#io.verify.pump()
  }

  onPeerWriteDone(write: PeerWrite, error: DiskError | undefined): void {
    const io = this.#io
    const { volume } = io
    if (error === undefined && (write.flags & (DP_FUA | DP_FLUSH)) !== 0 && !write.flushing) {
      write.flushing = true
      volume.engine.emit({ type: 'disk.flush', volume: volume.number, op: write })
      return
    }
    if (error !== undefined) {
      const [from, to] = blocksTouched(write.sector, write.sectors)
      volume.bitmap?.set(from, to)
      if (write.asksFirst && !write.ordered) this.#sendNow(write, NF_ALONE)
      this.#sendAck('P_NEG_ACK', write)
      volume.onDataError(error, 'write')
    } else {
      write.appliedList?.add(write.blockIdLo)
      if (write.asksFirst && !write.ordered) this.#order(write, NF_WRITTEN)
      else this.#acknowledge(write)
    }
    this.#finish(write)
    if (write.restartOverlapping) io.restartPostponed(write.sector, write.sectors)
  }

  /** The link is gone: what has not reached the disk is forgotten; what has, completes without an answer. */
  onPeerLost(): void {
    this.hasRefused = false
    this.#flushes = []
    this.#askedInDoubt = undefined
    for (const write of this.#waiting.splice(0)) this.#drop(write)
    for (const write of this.#unconfirmed.values()) if (write.applied) this.#io.release(write)
    this.#unconfirmed.clear()
  }

  /** What it applied of the process before is nobody's business any more. */
  onPeerRestarted(): void {
    this.#applied = new AppliedWrites()
  }

  #trySubmit(write: PeerWrite): boolean {
    const io = this.#io
    const { volume } = io
    if (write.epoch.lost) {
      this.#drop(write)
      return true
    }
    const own: LocalWrite[] = []
    let blocked = false
    io.active.forEachOverlap(write.sector, write.sectors, (present) => {
      if (present === write) return
      if (present.kind === 'local-write') own.push(present)
      else if (mustWait('peer-write', present, true)) blocked = true
    })
    write.restartOverlapping = false
    if (own.length > 0) {
      const verdict = io.order.judge(write, own)
      if (verdict === 'forbidden') {
        volume.engine.connection.protocolError(
          `the peer wrote sectors ${write.sector}+${write.sectors} while this host has the lock of their extent`,
        )
        return true
      }
      if (verdict === 'superseded') for (const winner of own) if (winner.localPending) this.#winners.add(winner)
      if (verdict === 'superseded' || verdict === 'retry') {
        this.#withdraw(write, verdict)
        return true
      }
      if (verdict === 'wait') return false
    }
    if (blocked || volume.inSyncUnsaved || !volume.engine.connection.epochMayProceed(write.epoch)) return false
    if (!this.#mayBeOnlyCopy(write)) return false
    write.submitted = true
    if (write.asksFirst && !volume.engine.settings.order.writeNowAcks) this.#order(write, 0)
    const offsetBytes = write.sector * 512
    if (write.data !== undefined)
      volume.engine.emit({
        type: 'disk.write',
        volume: volume.number,
        offsetBytes,
        data: write.data,
        op: write,
        lastUse: true,
      })
    else
      volume.engine.emit({
        type: 'disk.zero',
        volume: volume.number,
        offsetBytes,
        lengthBytes: write.sectors * 512,
        unmap: write.unmap,
        op: write,
      })
    return true
  }

  // ---- writes that ask first (order/coordinator.ts) ----------------------------------------------------------------------

  /** Place in the peer's stream of what is received now. */
  nextPosition(): number {
    return ++this.#position
  }

  /** From here on everything that overlaps comes after it, in the stream to the peer and on both disks. */
  #order(write: PeerWrite, nowFlags: number): void {
    if (write.epoch.lost) return
    write.ordered = true
    this.#unconfirmed.set(write.blockIdLo, write)
    this.#sendNow(write, nowFlags)
    this.#io.order.onPeerOrdered(write)
  }

  #sendNow(of: { sector: number; blockIdHi: number; blockIdLo: number; epoch: ReceivedEpoch }, nowFlags: number): void {
    if (of.epoch.lost) return
    this.writeNows++
    const { volume } = this.#io
    const { sector, blockIdHi, blockIdLo } = of
    volume.engine.connection.sendData({
      type: 'P_WRITE_NOW',
      volume: volume.number,
      sector,
      blockIdHi,
      blockIdLo,
      nowFlags,
    })
  }

  /** A write that asked first is on the peer's disk, too, or could not be written there. False: no such write. */
  onConfirmed(blockIdLo: number, sector: number, written: boolean): boolean {
    const write = this.#unconfirmed.get(blockIdLo)
    if (write === undefined || write.sector !== sector) return false
    this.#unconfirmed.delete(blockIdLo)
    if (!written) this.#io.volume.markOutOfSync(write.sector, write.sectors)
    if (write.applied) this.#io.release(write)
    return true
  }

  /** Our write is ordered after this one: it is not applied. */
  #withdraw(write: PeerWrite, verdict: 'superseded' | 'retry'): void {
    const io = this.#io
    const { engine } = io.volume
    const retry = verdict === 'retry' && engine.connection.apv >= 100
    this.#sendAck(retry ? 'P_RETRY_WRITE' : 'P_SUPERSEDED', write)
    if (retry) {
      // Leave room for it, or a host that rewrites a hot block without a pause would win for ever.
      const owed = { sector: write.sector, sectors: write.sectors }
      io.owed.add(owed)
      engine.timers.set(
        `owed-${io.volume.number}-${write.blockIdLo}-${write.sector}`,
        engine.nowMs + RETRY_OWED_MS,
        () => {
          if (io.owed.delete(owed)) io.pumpNeeded = true
        },
      )
    }
    io.volume.engine.connection.receivedEpochs.withdrawn(write.epoch)
    this.#drop(write)
  }

  #settleOwed(write: PeerWrite): void {
    for (const range of this.#io.owed) {
      if (range.sector === write.sector && range.sectors === write.sectors) {
        this.#io.owed.delete(range)
        this.#io.pumpNeeded = true
        return
      }
    }
  }

  /**
   * If the peer has no disk, this is the only copy, and the peer's disk will need it: like an own write it waits for the
   * superblock that says so and for its extents in the activity log, and its blocks are out of sync.
   */
  #mayBeOnlyCopy(write: PeerWrite): boolean {
    const { volume } = this.#io
    if (volume.state.pdsk >= D_INCONSISTENT && !write.onlyCopy) return true
    if (volume.isGated || write.awaitsActivity) return false
    const { activity } = volume
    if (activity !== undefined && write.activity === undefined) {
      if (activity.acquire(write)) write.activity = activity
      else {
        write.awaitsActivity = true
        return false
      }
    }
    if (!write.onlyCopy) volume.markOutOfSync(write.sector, write.sectors)
    return true
  }

  #acknowledge(write: PeerWrite): void {
    if ((write.flags & DP_SEND_WRITE_ACK) === 0 && this.#io.volume.engine.connection.apv >= 100) return
    const { volume } = this.#io
    const { conn, pdsk } = volume.state
    if (
      volume.engine.connection.apv < 100 &&
      volume.engine.settings.protocol !== 'C' &&
      (write.flags & DP_MAY_SET_IN_SYNC) === 0
    )
      return
    if (
      conn >= C_SYNC_SOURCE &&
      conn <= C_PAUSED_SYNC_T &&
      (write.flags & DP_MAY_SET_IN_SYNC) !== 0 &&
      pdsk >= D_INCONSISTENT
    ) {
      const [from, to] = blocksCovered(write.sector, write.sectors, volume.sizeSectors)
      if (from < to) this.#io.resync.clearInSync(from, to)
      this.#sendAck('P_RS_WRITE_ACK', write)
    } else this.#sendAck('P_WRITE_ACK', write)
  }

  #finish(write: PeerWrite): void {
    this.#drop(write)
    this.#io.volume.engine.connection.receivedEpochs.written(write.epoch)
    for (const flush of this.#flushes) flush.waitsFor.delete(write)
    this.#startFlushes()
  }

  #drop(write: PeerWrite): void {
    write.applied = true
    if (this.#unconfirmed.get(write.blockIdLo) !== write) this.#io.release(write)
    const { activity } = write
    write.activity = undefined
    activity?.release(write)
    if (!this.pending.delete(write)) return
    if (write.onlyCopy) this.#io.volume.forgetLog()
    if (write.data !== undefined) this.pendingBytes -= write.sectors * 512
    this.#io.pumpNeeded = true
    for (const flush of this.#flushes) flush.waitsFor.delete(write)
    if (this.#flushes.length > 0) this.#startFlushes()
    this.#answerInDoubt()
  }

  /** The peer asks which of its writes were applied here before the link was lost. */
  onInDoubt(payload: Uint8Array): void {
    this.#askedInDoubt = decodeCookies(payload)
    this.#answerInDoubt()
  }

  #answerInDoubt(): void {
    const asked = this.#askedInDoubt
    if (asked === undefined) return
    for (const write of this.pending) if (write.epoch.lost) return
    this.#askedInDoubt = undefined
    const { volume } = this.#io
    volume.engine.connection.sendData({
      type: 'P_APPLIED',
      volume: volume.number,
      payload: encodeCookies(this.#applied.among(asked)),
    })
  }

  /** No usable disk here: the data is dropped, the peer is told (6.2). */
  #refuse(packet: DataPacket, sizeBytes: number, epoch: ReceivedEpoch): void {
    this.hasRefused = true
    if ((packet.flags & DP_ASKS_FIRST) !== 0) this.#sendNow({ ...packet, epoch }, NF_ALONE)
    this.#ack('P_NEG_ACK', packet, packet.type === 'P_DATA' ? sizeBytes : 0)
    this.#io.volume.engine.connection.receivedEpochs.written(epoch)
    // It is as good as applied for those of ours that had to wait for it.
    this.#io.restartPostponed(packet.sector, sizeBytes / 512)
  }

  #sendAck(
    type: 'P_WRITE_ACK' | 'P_RS_WRITE_ACK' | 'P_NEG_ACK' | 'P_SUPERSEDED' | 'P_RETRY_WRITE',
    write: PeerWrite,
  ): void {
    if (!write.epoch.lost) this.#ack(type, write, write.sectors * 512)
  }

  #ack(
    type: 'P_RECV_ACK' | 'P_WRITE_ACK' | 'P_RS_WRITE_ACK' | 'P_NEG_ACK' | 'P_SUPERSEDED' | 'P_RETRY_WRITE',
    of: { sector: number; blockIdHi: number; blockIdLo: number },
    sizeBytes: number,
  ): void {
    const { volume } = this.#io
    const { connection } = volume.engine
    connection.sendMeta({
      type,
      volume: volume.number,
      sector: of.sector,
      blockIdHi: of.blockIdHi,
      blockIdLo: of.blockIdLo,
      sizeBytes,
      sequence: volume.nextSequence(),
    })
  }

  // ---- flushes ---------------------------------------------------------------------------------------------------------

  #onFlush(packet: DataPacket, epoch: ReceivedEpoch): void {
    this.#applied.onFlushReceived()
    this.#flushes.push(new PeerFlush(this, packet, epoch, new Set([...this.pending, ...this.#winners])))
    this.#startFlushes()
  }

  #startFlushes(): void {
    const { volume } = this.#io
    const ready = this.#flushes.filter((flush) => flush.waitsFor.size === 0)
    if (ready.length === 0) return
    this.#flushes = this.#flushes.filter((flush) => flush.waitsFor.size > 0)
    for (const flush of ready) volume.engine.emit({ type: 'disk.flush', volume: volume.number, op: flush })
  }

  onPeerFlushDone(flush: PeerFlush, error: DiskError | undefined): void {
    if (flush.epoch.lost) return
    this.#ack(error === undefined ? 'P_WRITE_ACK' : 'P_NEG_ACK', flush.packet, 0)
    this.#applied.onFlushAcknowledged()
    if (error !== undefined) this.#io.volume.onDataError(error, 'flush')
    this.#io.volume.engine.connection.receivedEpochs.written(flush.epoch)
  }

  onOwnWritten(write: LocalWrite): void {
    if (!this.#winners.delete(write)) return
    for (const flush of this.#flushes) flush.waitsFor.delete(write)
    this.#startFlushes()
  }

  // ---- reads -----------------------------------------------------------------------------------------------------------

  onReadRequest(
    purpose: PeerReadPurpose,
    packet: { sector: number; blockIdHi: number; blockIdLo: number; sizeBytes: number },
    digest: Uint8Array | undefined,
  ): void {
    const io = this.#io
    const read = new PeerRead(io, purpose, packet, digest)
    if (purpose !== 'data' && purpose !== 'verify') io.resync.onTargetAsks()
    if (io.volume.state.conn === C_AHEAD && (purpose === 'resync' || purpose === 'thin')) {
      this.#negativeReply(read, 'P_RS_CANCEL')
      return
    }
    if (io.volume.state.disk < D_UPTODATE) {
      this.#negativeReply(read)
      return
    }
    io.enqueueLocal(read)
  }

  /** Nothing that writes overlaps it now, and nothing starts until the answer is on the data stream. */
  startRead(read: PeerRead): void {
    const { volume } = this.#io
    if (this.#isStale(read)) {
      this.#io.release(read)
      return
    }
    if (read.purpose === 'thin' && volume.isHole(read.sector, read.sectors)) {
      this.#deallocated(read)
      return
    }
    volume.engine.emit({
      type: 'disk.read',
      volume: volume.number,
      offsetBytes: read.sector * 512,
      lengthBytes: read.sectors * 512,
      op: read,
    })
  }

  onPeerReadDone(read: PeerRead, error: DiskError | undefined, data: Uint8Array | undefined): void {
    const { volume } = this.#io
    const { engine } = volume
    if (read.session !== engine.connection.session || this.#isStale(read)) {
      this.#io.release(read)
      return
    }
    if (error !== undefined || data === undefined) {
      this.#negativeReply(read)
      this.#io.release(read)
      if (error !== undefined) volume.onDataError(error, 'read')
      return
    }
    this.#answerRead(read, data)
    if (!read.answered) this.#io.release(read)
  }

  /** For a resync that has ended: in the next one the answer would be taken for another. A kernel counts its answers, and gets it. */
  #isStale(read: PeerRead): boolean {
    const { resync, volume } = this.#io
    const isForResync = read.purpose !== 'data' && read.purpose !== 'verify'
    return isForResync && read.run !== resync.run && volume.engine.connection.coprimePeer
  }

  #answerRead(read: PeerRead, data: Uint8Array): void {
    const { volume } = this.#io
    const { connection } = volume.engine
    const common = {
      volume: volume.number,
      sector: read.sector,
      blockIdHi: read.blockIdHi,
      blockIdLo: read.blockIdLo,
      sequence: 0,
      flags: 0,
    }
    switch (read.purpose) {
      case 'thin':
        if (isZero(data)) {
          this.#deallocated(read)
          return
        }
        break
      case 'checksum': {
        const own = volume.engine.digests.digest(volume.engine.settings.csumsAlg, data)
        if (read.digest !== undefined && sameBytes(own, read.digest)) {
          connection.sendMeta({
            type: 'P_RS_IS_IN_SYNC',
            volume: volume.number,
            sector: read.sector,
            blockIdHi: read.blockIdHi,
            blockIdLo: read.blockIdLo,
            sizeBytes: read.sectors * 512,
            sequence: volume.nextSequence(),
          })
          volume.io.resync.onPeerInSync(read.sector, read.sectors)
          return
        }
        break
      }
      case 'verify':
        connection.sendData({
          type: 'P_OV_REPLY',
          volume: volume.number,
          sector: read.sector,
          blockIdHi: read.blockIdHi,
          blockIdLo: read.blockIdLo,
          sizeBytes: read.sectors * 512,
          digest: volume.engine.digests.digest(volume.engine.settings.verifyAlg, data),
        })
        read.answered = volume.io.verify.onAnswered(read)
        return
      case 'data':
      case 'resync':
        break
    }
    volume.sentBytes += data.length
    if (read.purpose !== 'data') {
      volume.io.resync.sentBytes += data.length
      volume.io.resync.onOffered(read.sector, read.sectors)
    }
    const type = read.purpose === 'data' ? 'P_DATA_REPLY' : 'P_RS_DATA_REPLY'
    connection.sendData({ type, ...common, digest: connection.integrityDigest(data), payload: data })
  }

  #deallocated(read: PeerRead): void {
    const { volume } = this.#io
    volume.io.resync.holeBytes += read.sectors * 512
    volume.io.resync.onOffered(read.sector, read.sectors)
    volume.engine.connection.sendData({
      type: 'P_RS_DEALLOCATED',
      volume: volume.number,
      sector: read.sector,
      sizeBytes: read.sectors * 512,
    })
    if (read.active) this.#io.release(read)
  }

  #negativeReply(
    read: PeerRead,
    type: 'P_NEG_DREPLY' | 'P_NEG_RS_DREPLY' | 'P_RS_CANCEL' = read.purpose === 'data'
      ? 'P_NEG_DREPLY'
      : 'P_NEG_RS_DREPLY',
  ): void {
    const { volume } = this.#io
    volume.engine.connection.sendMeta({
      type,
      volume: volume.number,
      sector: read.sector,
      blockIdHi: read.blockIdHi,
      blockIdLo: read.blockIdLo,
      sizeBytes: read.sectors * 512,
      sequence: volume.nextSequence(),
    })
  }
}

function repeat(block: Uint8Array, sizeBytes: number): Uint8Array {
  const data = new Uint8Array(sizeBytes)
  for (let at = 0; at < sizeBytes; at += block.length)
    data.set(block.subarray(0, Math.min(block.length, sizeBytes - at)), at)
  return data
}

function isZero(data: Uint8Array): boolean {
  if (data[0] !== 0 || data[data.length - 1] !== 0) return false
  if (data.byteOffset % 4 !== 0 || data.length % 4 !== 0) return data.every((byte) => byte === 0)
  const words = new Uint32Array(data.buffer, data.byteOffset, data.length / 4)
  for (let i = 0; i < words.length; i++) if (words[i] !== 0) return false
  return true
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}
