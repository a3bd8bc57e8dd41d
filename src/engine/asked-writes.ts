// Own writes that ask first: sent with DP_ASKS_FIRST, written on the own disk when the coordinator's P_WRITE_NOW has said
// where in the order of all writes they stand (order/coordinator.ts, docs/decisions/009).
//
//   here:  free ──send──▶ asked ──P_WRITE_NOW──▶ ordered ──own disk is free──▶ free (at the disk)
//                           └───── link lost ──────┴──▶ left: on the peer perhaps, here not
//
// A write of the coordinator that was received before P_WRITE_NOW is written here first, one received after it later:
// each of them has a position in the stream. What is left when the link is lost is out of sync from that moment on.

import { blocksTouched } from '../meta/bitmap.ts'
import { NF_ALONE, NF_WRITTEN, OWN_WRITE_HI } from '../wire/drbd/constants.ts'
import type { PacketOf } from '../wire/drbd/packets.ts'
import type { LocalWrite } from './requests.ts'
import type { VolumeIo } from './volume-io.ts'

export class AskedWrites {
  readonly #io: VolumeIo
  /** Sent, and not on the own disk yet, by block id. */
  readonly #open = new Map<number, LocalWrite>()
  /** Of these, those that wait for earlier writes of the coordinator. */
  #ordered: LocalWrite[] = []

  constructor(io: VolumeIo) {
    this.#io = io
  }

  add(write: LocalWrite): void {
    write.here = 'asked'
    write.asked = true
    write.confirms = true
    this.#open.set(write.cookie, write)
  }

  /** False: no such write, the peer is confused. */
  onWriteNow({ blockIdLo, sector, nowFlags }: PacketOf<'P_WRITE_NOW'>): boolean {
    const write = this.#open.get(blockIdLo)
    if (write === undefined || write.here !== 'asked' || write.sector !== sector) return false
    write.confirms = (nowFlags & NF_ALONE) === 0
    this.order(write)
    return (nowFlags & NF_WRITTEN) === 0 || this.#io.onWriteAck('written', blockIdLo, sector)
  }

  /** When the oldest write was sent that has no P_WRITE_NOW, though perhaps its acknowledgement; or infinity. */
  get oldestMs(): number {
    for (const write of this.#open.values()) if (write.here === 'asked') return write.startedAtMs
    return Number.POSITIVE_INFINITY
  }

  /** The write is written here now, behind all that was received so far. */
  order(write: LocalWrite): void {
    write.here = 'ordered'
    write.orderedAt = this.#io.peer.nextPosition()
    this.#ordered.push(write)
    this.pump()
  }

  /** Starts what waits no more for earlier writes, oldest first. */
  pump(): void {
    if (this.#ordered.length === 0) return
    const ordered = this.#ordered
    this.#ordered = []
    for (const write of ordered) {
      if (this.#mustWait(write)) this.#ordered.push(write)
      else {
        write.here = 'free'
        this.#io.writeHere(write)
      }
    }
  }

  /** The own disk is done with a write; if it asked first, the coordinator hears of it. */
  onWrittenHere(write: LocalWrite, error: boolean): void {
    if (!write.confirms) return
    write.confirms = false
    this.#open.delete(write.cookie)
    const { volume } = this.#io
    volume.engine.connection.sendMeta({
      type: error ? 'P_NEG_ACK' : 'P_WRITE_ACK',
      volume: volume.number,
      sector: write.sector,
      blockIdHi: OWN_WRITE_HI,
      blockIdLo: write.cookie,
      sizeBytes: write.sectors * 512,
      sequence: volume.nextSequence(),
    })
  }

  /** The link is lost: returns the writes that are not at the own disk. */
  onPeerLost(): LocalWrite[] {
    const left: LocalWrite[] = []
    for (const write of new Set([...this.#open.values(), ...this.#ordered])) {
      write.confirms = false
      if (write.here === 'free') continue
      write.here = 'left'
      const [from, to] = blocksTouched(write.sector, write.sectors)
      this.#io.volume.bitmap?.set(from, to)
      left.push(write)
    }
    this.#open.clear()
    this.#ordered = []
    return left
  }

  #mustWait(write: LocalWrite): boolean {
    let wait = false
    this.#io.active.forEachOverlap(write.sector, write.sectors, (present) => {
      if (present.kind === 'peer-write') wait ||= !present.applied && present.position < write.orderedAt
      else if (present.kind === 'local-read') wait ||= !present.remote
      else if (present.kind === 'peer-read') wait = true
    })
    return wait
  }
}
