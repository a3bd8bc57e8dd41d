// Locks on extents, and for those that both hosts fight for either the order of the coordinator or locks by turns, whichever
// gets more done (contest.ts). Only the coordinator C decides:
//
//   locked   as lock-extents. When C hands an extent over within a second of the last time, it is contested: if sharing is
//            the way in force, the grant says `shared`. Nobody has a write in it at that moment, neither C (it hands over)
//            nor N (it has no lock)
//   shared   C writes at once, N asks first (coordinator.ts). When N writes there and C has not for a second, or when turns
//            are the way in force, C asks for the extent like for any other: N lets its writes in it end, then grants. N gets
//            the lock when it asks next
//
// N may forget at any idle moment that an extent is shared: it asks, and hears it again. C takes it back first.

import type { OrderSettings } from '../../runtime/api.ts'
import { AUTO_HANDOVERS, AUTO_IDLE_MS, AUTO_MEMORY_EXTENTS_MAX, AUTO_WINDOW_MS } from '../limits.ts'
import type { LocalWrite, PeerWrite } from '../requests.ts'
import { Contest } from './contest.ts'
import { goesFirst } from './coordinator.ts'
import { LockExtents } from './lock-extents.ts'
import type { LockGrant, OrderHost, Verdict } from './order.ts'

/** Of one extent, each within a second of the one before. */
interface Handovers {
  readonly count: number
  readonly lastMs: number
}

export class Auto extends LockExtents {
  override readonly name = 'auto'
  readonly #handovers = new Map<number, Handovers>()
  #contest = new Contest()
  #ownWrites = 0

  constructor(host: OrderHost, settings: OrderSettings) {
    super(host, settings, { sharesOnHandover: (extent) => this.#sharesOnHandover(extent) })
  }

  override get mayBeAsked(): boolean {
    return this.host.coordinates
  }

  /** What an extent is cannot change while the write uses it. */
  override asksFirst(write: LocalWrite): boolean {
    if (this.host.coordinates || !this.locks.holds(write)) return false
    const last = this.locks.lastExtent(write)
    for (let extent = this.locks.firstExtent(write); extent <= last; extent++)
      if (this.locks.lock(extent)?.shared === true) return true
    return false
  }

  override judge(incoming: PeerWrite, overlapping: readonly LocalWrite[]): Verdict {
    let verdict: Verdict = 'apply'
    for (const own of overlapping) {
      const ordered = incoming.asksFirst || own.asked || this.#needsNoOrder(own, incoming)
      if (!ordered && this.isForbiddenBy(own)) return 'forbidden'
      if (goesFirst(own, incoming, this.host.isTarget)) verdict = 'wait'
    }
    return verdict
  }

  /** N without a disk does not ask in a shared extent: what it writes is on C's disk only. N with one always does. */
  #needsNoOrder(own: LocalWrite, incoming: PeerWrite): boolean {
    if (this.host.coordinates && !incoming.onlyCopy) return false
    const last = Math.min(this.locks.lastExtent(own), this.locks.lastExtent(incoming))
    const first = Math.max(this.locks.firstExtent(own), this.locks.firstExtent(incoming))
    for (let extent = first; extent <= last; extent++) if (this.locks.lock(extent)?.shared !== true) return false
    return true
  }

  override onPeerOrdered(write: PeerWrite): void {
    const { nowMs } = this.host
    const last = this.locks.lastExtent(write)
    for (let extent = this.locks.firstExtent(write); extent <= last; extent++) {
      const lock = this.locks.lock(extent)
      if (lock?.shared !== true) continue
      if (lock.uses > 0 || nowMs - lock.lastUseMs < AUTO_IDLE_MS) {
        this.#onMeeting()
        continue
      }
      this.#handovers.delete(extent)
      this.counters.orderSwitches++
      this.locks.takeBack(lock)
    }
  }

  override ended(write: LocalWrite): void {
    this.#ownWrites++
    super.ended(write)
  }

  override onLockGrant(extent: number, grant: LockGrant): boolean {
    return (!grant.shared || !this.host.coordinates) && this.locks.onGrant(extent, grant)
  }

  override onPeerLost(): void {
    this.#handovers.clear()
    this.#contest = new Contest()
    super.onPeerLost()
  }

  #onMeeting(): void {
    const { nowMs, peerWrites } = this.host
    if (!this.#contest.onMeeting(nowMs, this.#ownWrites + peerWrites)) return
    this.counters.orderSwitches++
    if (this.#contest.way === 'shared') return
    for (const extent of this.locks.takeAllBack()) this.#remember(extent, AUTO_HANDOVERS)
  }

  #sharesOnHandover(extent: number): boolean {
    if (!this.host.coordinates || !this.#isContested(extent)) return false
    this.#onMeeting()
    if (this.#contest.way === 'turns') return false
    this.counters.orderSwitches++
    return true
  }

  #isContested(extent: number): boolean {
    const known = this.#handovers.get(extent)
    const count = known !== undefined && this.host.nowMs - known.lastMs <= AUTO_WINDOW_MS ? known.count + 1 : 1
    this.#remember(extent, count)
    return count >= AUTO_HANDOVERS
  }

  #remember(extent: number, count: number): void {
    if (this.#handovers.size >= AUTO_MEMORY_EXTENTS_MAX) this.#handovers.clear()
    this.#handovers.set(extent, { count, lastMs: this.host.nowMs })
  }
}
