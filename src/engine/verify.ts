// Online verify of one volume (wire-protocol.md 8.10): both disks are compared block by block by their digests while clients go
// on. What differs becomes out of sync on both sides; it is resynced at the next connect, not now.
//
//   VerifyS (asked for here)                      VerifyT
//   own writes to the block held back
//   P_OV_REQUEST, 4 KiB ───────────────────────▶  own writes to the block held back, read
//   peer's writes that came before: applied  ◀──  P_OV_REPLY with the digest
//   read, compare; different: bits set
//   P_OV_RESULT (meta) ────────────────────────▶  different: bits set; writes go on
//   all blocks: P_PING, P_PING_ACK, P_STATE ───▶  Connected
//
// At versions 88 to 96 and 100 no P_STATE says the end: VerifyT counts the results down.

import { blocksTouched } from '../meta/bitmap.ts'
import type { DiskError } from '../runtime/ports.ts'
import { C_CONNECTED, C_VERIFY_S, C_VERIFY_T, OV_IN_SYNC, OV_OUT_OF_SYNC } from '../wire/drbd/constants.ts'
import { VERIFY_BLOCK_SECTORS, VERIFY_WINDOW_BLOCKS, VERIFY_WINDOW_BUSY_BLOCKS } from './limits.ts'
import { sameBytes } from './peer-io.ts'
import { mustWait, type PeerRead, VerifyRequest } from './requests.ts'
import type { VolumeIo } from './volume-io.ts'

export class Verify {
  readonly #io: VolumeIo
  /** Initiator: next sector to ask for, and where to stop. */
  #cursor = 0
  #stopSector = 0
  /** Asked for, from the order on until the result is sent. */
  readonly #requests = new Set<VerifyRequest>()
  /** Answered, waiting until what the peer wrote before is applied. */
  #toRead: VerifyRequest[] = []
  #finishing = false
  /** Target: our answers whose result is outstanding, by sector; own writes there wait. */
  readonly #answered = new Map<number, PeerRead>()
  /** Target: blocks without a result; undefined until the first request names the start. */
  #blocksLeft: number | undefined
  totalBlocks = 0
  doneBlocks = 0
  /** Of the verify that runs or ran last. */
  outOfSyncBlocks = 0

  constructor(io: VolumeIo) {
    this.#io = io
  }

  /** What the next verify that is asked for here covers. */
  plan(startSector: number, stopSector: number): void {
    this.#cursor = startSector - (startSector % VERIFY_BLOCK_SECTORS)
    this.#stopSector = stopSector
  }

  /** The state has become VerifyS or VerifyT. */
  start(): void {
    const { volume } = this.#io
    this.#finishing = false
    this.#blocksLeft = undefined
    this.outOfSyncBlocks = 0
    this.doneBlocks = 0
    const initiator = volume.state.conn === C_VERIFY_S
    const from = initiator ? this.#cursor : 0
    const to = initiator ? Math.min(this.#stopSector, volume.sizeSectors) : volume.sizeSectors
    this.totalBlocks = Math.max(0, Math.ceil((to - from) / VERIFY_BLOCK_SECTORS))
    volume.engine.log('info', `online verify ${initiator ? 'begins' : 'is asked for by the peer'}`, volume.number)
    if (initiator) this.advance()
  }

  /** The state is neither any more. */
  stop(): void {
    for (const request of [...this.#requests]) if (!request.reading) this.#drop(request)
    // Those that are being read are in the way of others until the disk is done.
    this.#requests.clear()
    this.#toRead = []
    for (const read of this.#answered.values()) this.#io.release(read)
    this.#answered.clear()
    const { volume } = this.#io
    const result = `${this.outOfSyncBlocks} blocks of 4 KiB differ`
    volume.engine.log(this.outOfSyncBlocks > 0 ? 'warn' : 'info', `online verify ends: ${result}`, volume.number)
    if (this.outOfSyncBlocks > 0 && volume.bitmap !== undefined) volume.store?.writeBitmap(volume.bitmap, 'changed')
  }

  // ---- initiator -------------------------------------------------------------------------------------------------------

  /** Asks for more as far as the window allows. */
  advance(): void {
    const { volume } = this.#io
    if (volume.state.conn !== C_VERIFY_S) return
    const end = Math.min(this.#stopSector, volume.sizeSectors)
    const window = this.#io.busy ? VERIFY_WINDOW_BUSY_BLOCKS : VERIFY_WINDOW_BLOCKS
    while (this.#requests.size < window && this.#cursor < end) {
      const sectors = Math.min(VERIFY_BLOCK_SECTORS, volume.sizeSectors - this.#cursor)
      if (!this.#io.resync.takeCredit(sectors * 512, () => this.advance())) return
      const request = new VerifyRequest(this.#io, this.#cursor, sectors)
      this.#cursor += sectors
      this.#requests.add(request)
      this.#io.enqueueLocal(request)
    }
    if (this.#requests.size === 0 && this.#cursor >= end) this.#finish()
  }

  /** No own write is under way there, and none starts before the result. */
  sendRequest(request: VerifyRequest): void {
    const { volume } = this.#io
    volume.engine.connection.sendData({
      type: 'P_OV_REQUEST',
      volume: volume.number,
      sector: request.sector,
      blockIdHi: 0xffffffff,
      blockIdLo: 0xffffffff,
      sizeBytes: request.sectors * 512,
    })
  }

  onReply(sector: number, sizeBytes: number, digest: Uint8Array): void {
    const request = this.#find(sector, sizeBytes)
    if (request === undefined) return
    request.peerDigest = digest
    this.#toRead.push(request)
    this.pump()
  }

  /** The peer could not read the block: nothing is known of it. */
  onNegativeReply(sector: number, sizeBytes: number): boolean {
    const request = this.#find(sector, sizeBytes)
    if (request === undefined) return false
    this.#drop(request)
    this.doneBlocks++
    this.advance()
    return true
  }

  /** Reads answered blocks that no write of the peer is on its way to. */
  pump(): void {
    if (this.#toRead.length === 0) return
    const waiting = this.#toRead
    this.#toRead = []
    for (const request of waiting) {
      let blocked = false
      this.#io.active.forEachOverlap(request.sector, request.sectors, (present) => {
        if (present !== request && mustWait('verify-read', present, true)) blocked = true
      })
      if (blocked) this.#toRead.push(request)
      else this.#read(request)
    }
  }

  #read(request: VerifyRequest): void {
    const { volume } = this.#io
    request.reading = true
    volume.engine.emit({
      type: 'disk.read',
      volume: volume.number,
      offsetBytes: request.sector * 512,
      lengthBytes: request.sectors * 512,
      op: request,
    })
  }

  onReadDone(request: VerifyRequest, error: DiskError | undefined, data: Uint8Array | undefined): void {
    const { volume } = this.#io
    request.reading = false
    const known = this.#requests.delete(request)
    this.#io.release(request)
    if (error !== undefined) volume.onDataError(error, 'read')
    if (!known || data === undefined || volume.state.conn !== C_VERIFY_S) return
    const own = volume.engine.digests.digest(volume.engine.settings.verifyAlg, data)
    const equal = request.peerDigest !== undefined && sameBytes(own, request.peerDigest)
    if (!equal) this.#onDifference(request.sector, request.sectors)
    this.doneBlocks++
    volume.engine.connection.sendMeta({
      type: 'P_OV_RESULT',
      volume: volume.number,
      sector: request.sector,
      blockIdHi: 0,
      blockIdLo: equal ? OV_IN_SYNC : OV_OUT_OF_SYNC,
      sizeBytes: request.sectors * 512,
      sequence: volume.nextSequence(),
    })
    this.advance()
  }

  #finish(): void {
    if (this.#finishing) return
    this.#finishing = true
    const { volume } = this.#io
    const { connection } = volume.engine
    const { session } = connection
    // The ping carries all results before it through the peer; P_STATE must not overtake them.
    connection.pingThen(() => {
      if (session === connection.session && volume.state.conn === C_VERIFY_S)
        volume.change({ conn: C_CONNECTED }, 'verify is done')
    })
  }

  #find(sector: number, sizeBytes: number): VerifyRequest | undefined {
    for (const request of this.#requests) {
      if (request.sector === sector && request.sectors * 512 === sizeBytes && request.active && !request.isAnswered)
        return request
    }
    return undefined
  }

  #drop(request: VerifyRequest): void {
    this.#requests.delete(request)
    this.#io.release(request)
  }

  // ---- target ----------------------------------------------------------------------------------------------------------

  /** The digest of a block is on its way; own writes to it wait for the result. False: nobody will send one. */
  onAnswered(read: PeerRead): boolean {
    const { volume } = this.#io
    if (volume.state.conn !== C_VERIFY_T) return false
    this.#blocksLeft ??= Math.ceil((volume.sizeSectors - read.sector) / VERIFY_BLOCK_SECTORS)
    const earlier = this.#answered.get(read.sector)
    if (earlier !== undefined) this.#io.release(earlier)
    this.#answered.set(read.sector, read)
    return true
  }

  onResult(sector: number, sectors: number, verdict: number): void {
    const { volume } = this.#io
    if (verdict === OV_OUT_OF_SYNC && sectors > 0 && volume.inRange(sector, sectors))
      this.#onDifference(sector, sectors)
    const read = this.#answered.get(sector)
    if (read === undefined) return
    this.#answered.delete(sector)
    this.#io.release(read)
    this.doneBlocks++
    if (this.#blocksLeft === undefined || --this.#blocksLeft > 0) return
    volume.engine.connection.pingThen(() => {
      if (volume.state.conn === C_VERIFY_T) volume.change({ conn: C_CONNECTED }, 'all blocks are verified')
    })
  }

  #onDifference(sector: number, sectors: number): void {
    const [from, to] = blocksTouched(sector, sectors)
    this.outOfSyncBlocks += to - from
    this.#io.volume.markOutOfSync(sector, sectors)
  }
}
