// The contract between the engine and the order in force for writes from two primaries (`global-write-order`). The rest of
// the engine does not know which one it is. One file each: arbitration.ts, coordinator.ts, lock-extents.ts, auto.ts. One
// object for each volume.
//
//   own write:    (waits for what overlaps) ──▶ admit ──▶ asksFirst, sent ──▶ both disks ──▶ ended
//   peer's write: received ──▶ judge, until `apply` ──▶ own disk ──▶ acknowledged

import type { OrderName } from '../../runtime/api.ts'
import type { LocalWrite, PeerWrite } from '../requests.ts'

/**
 * What becomes of a write received from the peer, given the own writes that overlap it:
 * - `apply`: nothing of ours is in its way;
 * - `wait`: judge again when one of the overlapping own writes changes;
 * - `superseded`: ours covers it and is ordered after it: it is not written here, the peer is told P_SUPERSEDED;
 * - `retry`: it overlaps ours in part: not written here, the peer is told to send it again (P_RETRY_WRITE);
 * - `forbidden`: the peer may not write there now; the connection is dropped.
 */
export type Verdict = 'apply' | 'wait' | 'superseded' | 'retry' | 'forbidden'

export interface WriteOrder {
  readonly name: OrderName
  /** `admit` may take a while. */
  readonly usesLocks: boolean
  readonly counters: OrderCounters
  /** When the oldest request of its own was sent that the peer has not answered, or infinity. */
  readonly oldestRequestMs: number
  /** Whether an own write may begin now; if not it is kept here, and asked for again through `OrderHost.restart`. */
  admit(write: LocalWrite): boolean
  /** Whether a write that is about to be sent is written here only when the peer says so (asked-writes.ts). */
  asksFirst(write: LocalWrite): boolean
  /** Whether the peer may ask first. */
  readonly mayBeAsked: boolean
  judge(incoming: PeerWrite, overlapping: readonly LocalWrite[]): Verdict
  /** A write of the peer that asked first is ordered now. */
  onPeerOrdered(write: PeerWrite): void
  /** An own write that was admitted is complete, or has failed. */
  ended(write: LocalWrite): void
  /** The peer wants to become Primary: `consent` when no own write is under way that did not reckon with that. */
  onPeerPromotes(consent: () => void): void
  onPeerLost(): void
  /** P_LOCK_EXTENT and P_LOCK_EXTENT_ACK; false: not expected. */
  onLockRequest(extent: number): boolean
  onLockGrant(extent: number, grant: LockGrant): boolean
}

/** What a grant says beside the extent. */
export interface LockGrant {
  /** Both hosts may write in it, in the order of the coordinator. */
  readonly shared: boolean
  /** How long the sender kept the request waiting. */
  readonly keptMs: number
}

/** Totals since start, for the status. */
export interface OrderCounters {
  lockRequests: number
  lockHandovers: number
  orderSwitches: number
}

/** What an order knows of the volume, and what it may order. */
export interface OrderHost {
  readonly nowMs: number
  /** Replication is under way: the peer may have writes of ours and we of it. */
  readonly connected: boolean
  /** The peer is Primary, or may be without our knowing yet. */
  readonly peerMayWrite: boolean
  readonly holdsFlag: boolean
  readonly coordinates: boolean
  /** This host takes over the peer's data. */
  readonly isTarget: boolean
  /** Writes received from the peer since start. */
  readonly peerWrites: number
  restart(write: LocalWrite): void
  sendLockRequest(extent: number): void
  sendLockGrant(extent: number, grant: LockGrant): void
  /** Calls `onTime` at that time; a later call replaces an earlier one. */
  wakeAt(atMs: number, onTime: () => void): void
}

/**
 * Own writes that did not reckon with writes of the peer, because it was Secondary when they began. Before the host
 * consents to the peer's promotion they must be complete.
 */
export class UnorderedWrites {
  #count = 0
  #consents: (() => void)[] = []

  begin(write: LocalWrite): void {
    if (write.unordered) return
    write.unordered = true
    this.#count++
  }

  end(write: LocalWrite): void {
    if (!write.unordered) return
    write.unordered = false
    if (--this.#count === 0) for (const consent of this.#consents.splice(0)) consent()
  }

  whenNone(consent: () => void): void {
    if (this.#count === 0) consent()
    else this.#consents.push(consent)
  }

  /** Who wanted the consent is gone. */
  onPeerLost(): void {
    this.#consents = []
  }
}

/** The part of the contract that has no meaning without locks and without asking. */
export abstract class SimpleOrder {
  readonly counters: OrderCounters = { lockRequests: 0, lockHandovers: 0, orderSwitches: 0 }

  get usesLocks(): boolean {
    return false
  }

  get oldestRequestMs(): number {
    return Number.POSITIVE_INFINITY
  }

  admit(_write: LocalWrite): boolean {
    return true
  }

  asksFirst(_write: LocalWrite): boolean {
    return false
  }

  get mayBeAsked(): boolean {
    return false
  }

  onPeerOrdered(_write: PeerWrite): void {}

  ended(_write: LocalWrite): void {}

  onPeerPromotes(consent: () => void): void {
    consent()
  }

  onPeerLost(): void {}

  onLockRequest(_extent: number): boolean {
    return false
  }

  onLockGrant(_extent: number, _grant: LockGrant): boolean {
    return false
  }
}
