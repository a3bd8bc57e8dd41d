// Epochs and barriers (wire-protocol.md 6.4), one set of counters per connection across all volumes.
//
// As writer: writes that are in flight together share an epoch; a P_BARRIER closes it on the wire, and the peer's
// P_BARRIER_ACK says that all of it is written. Towards a kernel peer an epoch ends with the first completion in it, as the
// kernel does it. Between two of ours the order of dependent writes needs no barrier (a flush is sent as a request of its
// own, docs/decisions/002), so an epoch ends only when it is full.
//
// As receiver: writes are counted per epoch; the barrier is acknowledged when all are written and acknowledged.

import type { Packet } from '../wire/drbd/packets.ts'
import type { LocalWrite } from './requests.ts'

export interface SentEpoch {
  readonly number: number
  /** Writes sent to the peer in it, and how many of these the peer superseded or wants again. */
  sent: number
  withdrawn: number
  /** All of it is written, says the peer. */
  acknowledged: boolean
}

export interface EpochHost {
  readonly maxEpochSize: number
  /** The peer is a kernel: epochs end with each completion. */
  readonly strictEpochs: boolean
  /** Towards one of ours, too: what is not acknowledged is counted (congestion.ts). */
  readonly endsEpochsEarly: boolean
  sendData(packet: Packet): void
  /** `withdrawn`: writes of the epoch were superseded or are to be sent again. */
  sendBarrierAck(barrier: number, setSize: number, withdrawn: boolean): void
  protocolError(reason: string): void
  /** Flushes the own disks; towards a kernel peer, before the next epoch may be written. */
  flushBetweenEpochs(done: () => void): void
  /** Writes that waited for their epoch may go on. */
  onEpochAdvance(): void
}

export class SentEpochs {
  readonly #host: EpochHost
  #current: SentEpoch = { number: 1, sent: 0, withdrawn: 0, acknowledged: false }
  /** Requests assigned to the current epoch, also those that were not sent. */
  #count = 0
  /** Closed on the wire, barrier acknowledgement outstanding; oldest first. */
  readonly #unacknowledged: SentEpoch[] = []
  /** Epoch of the last write sent, if a barrier for it is still due. */
  #lastSent: SentEpoch | undefined

  constructor(host: EpochHost) {
    this.#host = host
  }

  /** Assigns a write to the current epoch; sends the barrier of the previous one if that is due. */
  assign(write: LocalWrite | undefined): SentEpoch {
    const epoch = this.#current
    if (this.#lastSent !== undefined && this.#lastSent !== epoch) this.#sendBarrier()
    if (write !== undefined) write.epoch = epoch
    this.#count++
    if (this.#count >= this.#host.maxEpochSize) this.close()
    return epoch
  }

  /** A write of that epoch was put on the data stream. */
  sent(epoch: SentEpoch): void {
    epoch.sent++
    this.#lastSent = epoch
  }

  /** A write was answered to its client: what comes later may depend on it. */
  onCompletion(epoch: SentEpoch | undefined): void {
    if (this.#host.endsEpochsEarly && epoch === this.#current) this.close()
  }

  close(): void {
    if (this.#count === 0) return
    this.#current = { number: (this.#current.number + 1) >>> 0, sent: 0, withdrawn: 0, acknowledged: false }
    this.#count = 0
  }

  /** At the end of a turn: a closed epoch whose writes are all sent gets its barrier at once. */
  onIdle(): void {
    if (this.#lastSent !== undefined && this.#lastSent !== this.#current) this.#sendBarrier()
  }

  onBarrierAck(barrier: number, setSize: number): void {
    const index = this.#unacknowledged.findIndex((epoch) => epoch.number === barrier)
    // The kernel never acknowledges an epoch with a superseded or retried write (7.5): a later acknowledgement stands for it.
    const skipped = this.#unacknowledged.slice(0, Math.max(index, 0))
    const epoch = this.#unacknowledged[index]
    if (epoch === undefined || skipped.some((earlier) => earlier.withdrawn === 0)) {
      this.#host.protocolError(`barrier ack for epoch ${barrier}, which is not the oldest`)
      return
    }
    if (setSize !== epoch.sent && setSize !== epoch.sent - epoch.withdrawn) {
      this.#host.protocolError(`barrier ack for epoch ${barrier} counts ${setSize} writes, ${epoch.sent} were sent`)
      return
    }
    for (const done of this.#unacknowledged.splice(0, index + 1)) done.acknowledged = true
  }

  /** Epochs with writes that the peer has not acknowledged. */
  get unacknowledged(): number {
    return this.#unacknowledged.length + (this.#lastSent === undefined ? 0 : 1)
  }

  /** The connection is gone: nothing will be acknowledged. */
  reset(): void {
    this.close()
    this.#lastSent = undefined
    this.#unacknowledged.length = 0
  }

  #sendBarrier(): void {
    const epoch = this.#lastSent
    if (epoch === undefined) return
    this.#lastSent = undefined
    this.#unacknowledged.push(epoch)
    this.#host.sendData({ type: 'P_BARRIER', volume: 0, barrier: epoch.number })
  }
}

/** The peer's writes between two of its barriers. */
export interface ReceivedEpoch {
  /** Place in the stream, growing. */
  readonly index: number
  /** Writes received, and how many of these are not acknowledged yet. */
  count: number
  pending: number
  /** Some of its writes were superseded or are to be sent again; `count` leaves them out. */
  withdrawn: boolean
  barrier: number | undefined
  /** The connection that it came by is gone: nothing of it may be acknowledged any more. */
  lost: boolean
}

export class ReceivedEpochs {
  readonly #host: EpochHost
  #current: ReceivedEpoch = { index: 0, count: 0, pending: 0, withdrawn: false, barrier: undefined, lost: false }
  /** Closed by a barrier that is not acknowledged yet; oldest first. */
  readonly #closed: ReceivedEpoch[] = []
  /** All writes of the epochs right before were withdrawn, so nothing was acknowledged for them. */
  #emptyBefore = false
  #flushing = false

  constructor(host: EpochHost) {
    this.#host = host
  }

  received(): ReceivedEpoch {
    this.#current.count++
    this.#current.pending++
    return this.#current
  }

  /** The write's acknowledgement has been sent. */
  written(epoch: ReceivedEpoch): void {
    epoch.pending--
    if (!epoch.lost && epoch.pending === 0 && epoch.barrier !== undefined) this.#acknowledge()
  }

  /** Superseded or to be retried: it counts neither as pending nor in the acknowledged number (7.5). */
  withdrawn(epoch: ReceivedEpoch): void {
    epoch.count--
    epoch.withdrawn = true
    this.written(epoch)
  }

  onBarrier(barrier: number): void {
    this.#current.barrier = barrier
    this.#closed.push(this.#current)
    this.#current = {
      index: this.#current.index + 1,
      count: 0,
      pending: 0,
      withdrawn: false,
      barrier: undefined,
      lost: false,
    }
    this.#acknowledge()
  }

  /** Whether all epochs before this one are written. */
  isOldest(epoch: ReceivedEpoch): boolean {
    return !this.#flushing && (this.#closed[0] ?? this.#current) === epoch
  }

  reset(): void {
    for (const epoch of this.#closed) epoch.lost = true
    this.#current.lost = true
    this.#closed.length = 0
    this.#emptyBefore = false
    this.#current = {
      index: this.#current.index + 1,
      count: 0,
      pending: 0,
      withdrawn: false,
      barrier: undefined,
      lost: false,
    }
  }

  #acknowledge(): void {
    let advanced = false
    for (let epoch = this.#closed[0]; epoch !== undefined && epoch.pending === 0; epoch = this.#closed[0]) {
      this.#closed.shift()
      advanced = true
      // An epoch of which nothing is left has no acknowledgement: the kernel takes a count of 0 for an error (7.5).
      // The next one stands for it, and is too early as long as the kernel is at work on what it withdrew (soak, seed 7).
      if (epoch.count > 0) {
        this.#host.sendBarrierAck(epoch.barrier ?? 0, epoch.count, epoch.withdrawn || this.#emptyBefore)
        this.#emptyBefore = false
      } else if (epoch.withdrawn) this.#emptyBefore = true
    }
    if (!advanced) return
    if (!this.#host.strictEpochs) this.#host.onEpochAdvance()
    else if (!this.#flushing) this.#flush()
  }

  /** As a kernel does it: the acknowledgement first, then the flush, and until it is done nothing of the next epoch. */
  #flush(): void {
    this.#flushing = true
    const { index } = this.#current
    this.#host.flushBetweenEpochs(() => {
      this.#flushing = false
      if (index <= this.#current.index) this.#host.onEpochAdvance()
    })
  }
}
