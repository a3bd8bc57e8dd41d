// An acknowledgement of a barrier says that every write before it is at the disk of who acknowledges, or was refused: a kernel
// forgets them then (wire-protocol.md 6.4), and would not mark them out of sync if that host were lost. Two of ours rely on
// less (decision 002), so nothing else would notice. Looks at the packets of one life of a host, and at its disk.

import { SECTOR_BYTES } from '../../base/units.ts'
import type { Direction } from '../../runtime/packet-trace.ts'
import type { Packet } from '../../wire/drbd/packets.ts'

interface BlockId {
  readonly blockIdHi: number
  readonly blockIdLo: number
}

/** A write of the peer; `left`: what of it is not at the disk yet, as ranges of bytes. */
interface ReceivedWrite extends BlockId {
  left: (readonly [from: number, to: number])[]
}

interface Epoch {
  readonly barrier: number | undefined
  readonly writes: Set<ReceivedWrite>
}

export class BarrierAcks {
  readonly #report: (message: string) => void
  #current = new Set<ReceivedWrite>()
  /** Closed by a barrier, oldest first. */
  #closed: Epoch[] = []

  constructor(report: (message: string) => void) {
    this.#report = report
  }

  onPacket(direction: Direction, packet: Packet): void {
    if (direction === 'sent') this.#onSent(packet)
    else this.#onReceived(packet)
  }

  /** A write is at the disk. */
  onWritten(offsetBytes: number, lengthBytes: number): void {
    for (const writes of this.#epochs()) {
      for (const write of writes) {
        write.left = write.left.flatMap((range) => without(range, offsetBytes, offsetBytes + lengthBytes))
        if (write.left.length === 0) writes.delete(write)
      }
    }
  }

  #onReceived(packet: Packet): void {
    switch (packet.type) {
      case 'P_CONNECTION_FEATURES':
        this.#current = new Set()
        this.#closed = []
        break
      case 'P_DATA':
        this.#add(packet, packet.payload.length)
        break
      case 'P_TRIM':
      case 'P_ZEROES':
      case 'P_WSAME':
        this.#add(packet, packet.sizeBytes)
        break
      case 'P_BARRIER':
        this.#closed.push({ barrier: packet.barrier, writes: this.#current })
        this.#current = new Set()
        break
    }
  }

  #onSent(packet: Packet): void {
    switch (packet.type) {
      case 'P_SUPERSEDED':
      case 'P_RETRY_WRITE':
      case 'P_NEG_ACK':
        for (const writes of this.#epochs()) {
          for (const write of writes) if (isSame(write, packet)) writes.delete(write)
        }
        break
      case 'P_BARRIER_ACK':
        this.#onAck(packet.barrier)
        break
    }
  }

  /** Epochs of which nothing was left have no acknowledgement of their own: that of a later one stands for them. */
  #onAck(barrier: number): void {
    const upTo = this.#closed.findIndex((epoch) => epoch.barrier === barrier)
    for (const { barrier: number, writes } of this.#closed.splice(0, upTo + 1)) {
      const [write] = writes
      if (write === undefined) continue
      const ranges = write.left.map(([from, to]) => `${from / SECTOR_BYTES}+${(to - from) / SECTOR_BYTES}`).join(' ')
      this.#report(
        `barrier ${barrier} is acknowledged, but ${ranges} of write #${write.blockIdLo}, before barrier ${number}, is not at the disk`,
      )
      return
    }
  }

  #add({ sector, blockIdHi, blockIdLo }: BlockId & { readonly sector: number }, sizeBytes: number): void {
    const from = sector * SECTOR_BYTES
    if (sizeBytes > 0) this.#current.add({ blockIdHi, blockIdLo, left: [[from, from + sizeBytes]] })
  }

  *#epochs(): Generator<Set<ReceivedWrite>> {
    for (const { writes } of this.#closed) yield writes
    yield this.#current
  }
}

const isSame = (one: BlockId, other: BlockId): boolean =>
  one.blockIdHi === other.blockIdHi && one.blockIdLo === other.blockIdLo

/** What is left of a range without `from` to `to`. */
function without(range: readonly [number, number], from: number, to: number): (readonly [number, number])[] {
  const [start, end] = range
  if (to <= start || end <= from) return [range]
  const parts: (readonly [number, number])[] = []
  if (start < from) parts.push([start, from])
  if (to < end) parts.push([to, end])
  return parts
}
