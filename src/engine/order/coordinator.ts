// One host, the coordinator C, decides the order of all writes; the other host N asks first (docs/write-orders.md):
//
//        C                                       N
//   W1:  write, send ─────── P_DATA(W1) ───────▶ write
//        │◀───────────────── P_DATA(W2) ──────── W2: sent, not written
//        write ───────── P_WRITE_NOW(W2) ──────▶ write
//        on disk ────────── P_WRITE_ACK ───────▶
//        W2 may be read ◀── P_WRITE_ACK (own) ── on disk; with C's: done
//
// The order of P_DATA and P_WRITE_NOW in C's data stream is the order; both hosts write overlapping ones in it. With
// write-now-acks P_WRITE_NOW comes when W2 is on C's disk and stands for C's P_WRITE_ACK. While the peer is Secondary nobody
// asks: there is nothing to order.

import type { LocalWrite, PeerWrite } from '../requests.ts'
import { type OrderHost, SimpleOrder, UnorderedWrites, type Verdict, type WriteOrder } from './order.ts'

export class Coordinator extends SimpleOrder implements WriteOrder {
  readonly name = 'coordinator'
  readonly #host: OrderHost
  readonly #unordered = new UnorderedWrites()

  constructor(host: OrderHost) {
    super()
    this.#host = host
  }

  override get mayBeAsked(): boolean {
    return this.#host.coordinates
  }

  override asksFirst(write: LocalWrite): boolean {
    if (this.#host.coordinates) return false
    if (this.#host.peerMayWrite) return true
    this.#unordered.begin(write)
    return false
  }

  judge(incoming: PeerWrite, overlapping: readonly LocalWrite[]): Verdict {
    return overlapping.some((own) => goesFirst(own, incoming, this.#host.isTarget)) ? 'wait' : 'apply'
  }

  override ended(write: LocalWrite): void {
    this.#unordered.end(write)
  }

  override onPeerPromotes(consent: () => void): void {
    this.#unordered.whenNone(consent)
  }

  override onPeerLost(): void {
    this.#unordered.onPeerLost()
  }
}

/** Whether an own write is written here before an overlapping one of the peer. */
export function goesFirst(own: LocalWrite, incoming: PeerWrite, isTarget: boolean): boolean {
  switch (own.here) {
    case 'free':
      return own.localPending
    case 'asked':
      return false
    case 'ordered':
      return own.orderedAt < incoming.position
    case 'left':
      // As source it is written alone first, since readers of the peer may have seen it; as target it is ordered anew.
      return !isTarget
  }
}
