// Locks on extents, and the order of the coordinator in those that both hosts fight for. Only the coordinator C decides:
//
//   locked   as lock-extents. When C would hand an extent over for the second time within a second, its grant says `shared`:
//            nobody has a write in it at that moment, neither C (it hands over) nor N (it has no lock)
//   shared   C writes at once, N asks first (coordinator.ts). When N writes there and C has not for a second, C asks for the
//            extent like for any other: N lets its writes in it end, then grants. N gets the lock when it asks next
//
// N may forget at any idle moment that an extent is shared: it asks, and hears it again. C takes it back first.

import type { OrderSettings } from '../../runtime/api.ts'
import { AUTO_HANDOVERS, AUTO_IDLE_MS, AUTO_MEMORY_EXTENTS_MAX, AUTO_WINDOW_MS } from '../limits.ts'
import type { LocalWrite, PeerWrite } from '../requests.ts'
import { goesFirst } from './coordinator.ts'
import { LockExtents } from './lock-extents.ts'
import type { OrderHost, Verdict } from './order.ts'

interface Handovers {
  count: number
  /** Of the first one that counts. */
  sinceMs: number
}

export class Auto extends LockExtents {
  override readonly name = 'auto'
  readonly #handovers = new Map<number, Handovers>()

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
      const ordered = incoming.asksFirst || own.asked
      if (!ordered && this.isForbiddenBy(own)) return 'forbidden'
      if (goesFirst(own, incoming, this.host.isTarget)) verdict = 'wait'
    }
    return verdict
  }

  override onPeerOrdered(write: PeerWrite): void {
    const { nowMs } = this.host
    const last = this.locks.lastExtent(write)
    for (let extent = this.locks.firstExtent(write); extent <= last; extent++) {
      const lock = this.locks.lock(extent)
      if (lock?.shared !== true || lock.uses > 0 || nowMs - lock.lastUseMs < AUTO_IDLE_MS) continue
      this.#handovers.delete(extent)
      this.counters.orderSwitches++
      this.locks.takeBack(lock)
    }
  }

  override onLockGrant(extent: number, shared: boolean): boolean {
    return (!shared || !this.host.coordinates) && this.locks.onGrant(extent, shared)
  }

  override onPeerLost(): void {
    this.#handovers.clear()
    super.onPeerLost()
  }

  #sharesOnHandover(extent: number): boolean {
    if (!this.host.coordinates) return false
    const { nowMs } = this.host
    const known = this.#handovers.get(extent)
    if (known === undefined || nowMs - known.sinceMs > AUTO_WINDOW_MS) {
      if (this.#handovers.size >= AUTO_MEMORY_EXTENTS_MAX) this.#handovers.clear()
      this.#handovers.set(extent, { count: 1, sinceMs: nowMs })
      return false
    }
    if (++known.count < AUTO_HANDOVERS) return false
    this.#handovers.delete(extent)
    this.counters.orderSwitches++
    return true
  }
}
