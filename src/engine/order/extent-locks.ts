// Locks on extents of one volume, shared with the peer (order/lock-extents.ts; docs/decisions/009).
//
//        host A                                    host B
//   wants e: requested ── P_LOCK_EXTENT(e) ──▶ none: grants      mine, idle: grants      mine, in use: wanted,
//   mine  ◀───────────── P_LOCK_EXTENT_ACK ──    at once           and has none            grants with the last use
//
// An extent without an entry here is not ours; whether it is the peer's is not known, and need not be: who has none grants.
// Both packets go in the data stream, so a request that arrives while ours is under way has crossed it: the holder of the
// resolve-conflicts flag wins and grants later, the other one grants at once and stays in line.
//
// A write *uses* its extents from its beginning to its end: what waits for anything else uses none. It keeps an extent only when it has all lower ones (so nobody
// can wait in a circle), and asks for all that are missing at once.

import { assert } from '../../base/assert.ts'
import { LOCK_HOLD_MS_MAX, LOCK_HOLD_MS_MIN, LOCK_HOLD_ROUND_TRIPS } from '../limits.ts'
import type { LocalWrite } from '../requests.ts'
import type { LockGrant, OrderCounters, OrderHost } from './order.ts'

export interface Lock {
  readonly extent: number
  state: 'requested' | 'mine'
  /** Mine, and the peer's as well: both write in it, in the order of the coordinator. */
  shared: boolean
  /** Own writes that were admitted into it and have not ended. */
  uses: number
  /** The peer has asked for it. */
  wanted: boolean
  wantedAtMs: number
  /** Wanted, and held for long enough, or to be taken back: no write enters any more. */
  closed: boolean
  requestedAtMs: number
  /** Until then writes enter although it is wanted. */
  holdUntilMs: number
  lastUseMs: number
}

/** A write that has the extents below `next`. */
interface Waiter {
  readonly write: LocalWrite
  next: number
}

const AT_ONCE: LockGrant = { shared: false, keptMs: 0 }

export interface LockPolicy {
  /** The extent goes to the peer: whether it becomes a shared one instead. */
  sharesOnHandover(extent: number): boolean
}

export class ExtentLocks {
  readonly #host: OrderHost
  readonly #counters: OrderCounters
  readonly #policy: LockPolicy
  readonly #extentSectors: number
  readonly #locksMax: number
  readonly #locks = new Map<number, Lock>()
  #waiters: Waiter[] = []
  /** Grows when all locks are lost: uses of an older one count no more. */
  #generation = 1
  #wakeAtMs = Number.POSITIVE_INFINITY

  constructor(
    host: OrderHost,
    parts: { counters: OrderCounters; policy: LockPolicy; extentBytes: number; extentsMax: number },
  ) {
    this.#host = host
    this.#counters = parts.counters
    this.#policy = parts.policy
    this.#extentSectors = parts.extentBytes / 512
    this.#locksMax = parts.extentsMax
  }

  /** A grant waits for writes of the peer, and these are bounded by its own time-out: so this is one for a dead stream. */
  get oldestRequestMs(): number {
    let oldest = Number.POSITIVE_INFINITY
    for (const lock of this.#locks.values())
      if (lock.state === 'requested' && lock.requestedAtMs < oldest) oldest = lock.requestedAtMs
    return oldest
  }

  holds(write: LocalWrite): boolean {
    return write.lockGeneration === this.#generation
  }

  firstExtent(range: { readonly sector: number }): number {
    return Math.floor(range.sector / this.#extentSectors)
  }

  lastExtent(range: { readonly sector: number; readonly sectors: number }): number {
    return Math.floor((range.sector + range.sectors - 1) / this.#extentSectors)
  }

  lock(extent: number): Lock | undefined {
    return this.#locks.get(extent)
  }

  // ---- own writes ------------------------------------------------------------------------------------------------------

  /** True: the write uses all its extents now. False: it waits, and the host starts it again when it has them. */
  take(write: LocalWrite): boolean {
    const next = this.#keep(write, this.firstExtent(write))
    if (next > this.lastExtent(write)) {
      write.lockGeneration = this.#generation
      return true
    }
    this.#waiters.push({ write, next })
    this.#requestMissing(write, next)
    return false
  }

  release(write: LocalWrite): void {
    if (write.lockGeneration !== this.#generation) return
    write.lockGeneration = 0
    this.#giveBack(this.firstExtent(write), this.lastExtent(write) + 1)
  }

  /** Keeps the extents from `next` on as far as they are there; returns the first that is not. */
  #keep(write: LocalWrite, next: number): number {
    const last = this.lastExtent(write)
    for (let extent = next; extent <= last; extent++) {
      const lock = this.#locks.get(extent)
      if (lock === undefined || lock.state !== 'mine' || lock.closed) return extent
      lock.uses++
      lock.lastUseMs = this.#host.nowMs
    }
    return last + 1
  }

  #giveBack(from: number, toExclusive: number): void {
    for (let extent = from; extent < toExclusive; extent++) {
      const lock = this.#locks.get(extent)
      assert(lock !== undefined && lock.uses > 0, `the lock of extent ${extent} is released more often than taken`)
      lock.uses--
      if (lock.closed && lock.uses === 0) this.#leave(lock)
    }
  }

  #requestMissing(write: LocalWrite, from: number): void {
    const last = this.lastExtent(write)
    for (let extent = from; extent <= last; extent++) if (!this.#locks.has(extent)) this.#request(extent)
  }

  #request(extent: number): void {
    this.#makeRoom()
    const { nowMs } = this.#host
    this.#locks.set(extent, {
      extent,
      state: 'requested',
      shared: false,
      uses: 0,
      wanted: false,
      wantedAtMs: 0,
      closed: false,
      requestedAtMs: nowMs,
      holdUntilMs: 0,
      lastUseMs: nowMs,
    })
    this.#counters.lockRequests++
    this.#host.sendLockRequest(extent)
  }

  /** Lets those go on that wait for nothing any more; the others ask for what was given away meanwhile. */
  #advance(): void {
    const waiters = this.#waiters
    this.#waiters = []
    for (const waiter of waiters) {
      waiter.next = this.#keep(waiter.write, waiter.next)
      if (waiter.next > this.lastExtent(waiter.write)) {
        waiter.write.lockGeneration = this.#generation
        this.#host.restart(waiter.write)
      } else {
        this.#waiters.push(waiter)
        this.#requestMissing(waiter.write, waiter.next)
      }
    }
  }

  // ---- the peer --------------------------------------------------------------------------------------------------------

  onRequest(extent: number): void {
    const lock = this.#locks.get(extent)
    if (lock === undefined) this.#host.sendLockGrant(extent, AT_ONCE)
    else if (lock.state === 'mine' && lock.shared && this.#host.coordinates) {
      // The peer has forgotten that it is.
      this.#host.sendLockGrant(extent, { shared: true, keptMs: 0 })
    } else if (lock.state === 'mine') {
      this.#want(lock)
      if (lock.shared) lock.holdUntilMs = 0
      this.#maybeClose(lock)
    } else if (this.#host.holdsFlag) this.#want(lock)
    else this.#host.sendLockGrant(extent, AT_ONCE)
  }

  /** False: it was not asked for. */
  onGrant(extent: number, { shared, keptMs }: LockGrant): boolean {
    const lock = this.#locks.get(extent)
    if (lock === undefined || lock.state !== 'requested') return false
    const { nowMs } = this.#host
    lock.state = 'mine'
    lock.shared = shared
    // The peer's turn is no part of what it costs that locks change hands: two hosts would teach each other to hold longer.
    const tripMs = nowMs - lock.requestedAtMs - keptMs
    const holdMs = Math.min(Math.max(LOCK_HOLD_ROUND_TRIPS * tripMs, LOCK_HOLD_MS_MIN), LOCK_HOLD_MS_MAX)
    lock.holdUntilMs = nowMs + holdMs
    this.#advance()
    if (lock.wanted) this.#maybeClose(lock)
    return true
  }

  #maybeClose(lock: Lock): void {
    if (this.#host.nowMs < lock.holdUntilMs) {
      this.#wakeAt(lock.holdUntilMs)
      return
    }
    this.#close(lock)
  }

  #want(lock: Lock): void {
    lock.wanted = true
    lock.wantedAtMs = this.#host.nowMs
  }

  #close(lock: Lock): void {
    lock.closed = true
    if (lock.uses === 0) this.#leave(lock)
  }

  /** The last write has left a closed lock. */
  #leave(lock: Lock): void {
    if (lock.shared && this.#host.coordinates) this.#takeBack(lock)
    else this.#handOver(lock)
  }

  #handOver(lock: Lock): void {
    const { extent } = lock
    const keptMs = this.#host.nowMs - lock.wantedAtMs
    this.#counters.lockHandovers++
    if (!lock.shared && this.#policy.sharesOnHandover(extent)) {
      lock.shared = true
      lock.wanted = false
      lock.closed = false
      this.#host.sendLockGrant(extent, { shared: true, keptMs })
    } else {
      this.#locks.delete(extent)
      this.#host.sendLockGrant(extent, { shared: false, keptMs })
    }
    if (this.#waiters.length > 0) this.#advance()
  }

  /** The coordinator takes a shared extent back as soon as it does not use it. */
  takeBack(lock: Lock): void {
    if (lock.shared && lock.state === 'mine' && !lock.closed) this.#close(lock)
  }

  /** All shared ones; returns which. */
  takeAllBack(): number[] {
    const shared = [...this.#locks.values()].filter((lock) => lock.shared)
    for (const lock of shared) this.takeBack(lock)
    return shared.map(({ extent }) => extent)
  }

  #takeBack(lock: Lock): void {
    assert(lock.shared && lock.state === 'mine' && lock.uses === 0, `extent ${lock.extent} is shared and not in use`)
    lock.shared = false
    lock.closed = false
    lock.state = 'requested'
    lock.requestedAtMs = this.#host.nowMs
    this.#counters.lockRequests++
    this.#host.sendLockRequest(lock.extent)
  }

  #wakeAt(atMs: number): void {
    if (atMs >= this.#wakeAtMs) return
    this.#wakeAtMs = atMs
    this.#host.wakeAt(atMs, () => {
      this.#wakeAtMs = Number.POSITIVE_INFINITY
      for (const lock of [...this.#locks.values()])
        if (lock.wanted && lock.state === 'mine' && !lock.closed) this.#maybeClose(lock)
    })
  }

  /** The link is lost: so are all locks. Whoever waits need not wait any more. */
  onPeerLost(): void {
    this.#locks.clear()
    this.#generation++
    for (const { write } of this.#waiters.splice(0)) this.#host.restart(write)
  }

  /** Forgets the least recently used locks that are not in use: nobody needs to be told. */
  #makeRoom(): void {
    if (this.#locks.size < this.#locksMax) return
    let oldest: Lock | undefined
    for (const lock of this.#locks.values()) {
      if (lock.state !== 'mine' || lock.uses > 0 || lock.wanted) continue
      if (oldest === undefined || lock.lastUseMs < oldest.lastUseMs) oldest = lock
    }
    if (oldest === undefined) return // all are in use: more than the limit for a while
    if (oldest.shared && this.#host.coordinates) this.takeBack(oldest)
    else this.#locks.delete(oldest.extent)
  }
}
