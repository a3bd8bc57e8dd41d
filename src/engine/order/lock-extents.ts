// A host writes only inside extents whose lock it has (extent-locks.ts): writes of both hosts never meet. Two hosts that
// write in distinct areas send nothing but P_DATA and P_WRITE_ACK, once they have their locks. While the peer is Secondary
// no lock is needed.

import type { OrderSettings } from '../../runtime/api.ts'
import type { LocalWrite, PeerWrite } from '../requests.ts'
import { ExtentLocks, type LockPolicy } from './extent-locks.ts'
import { type LockGrant, type OrderHost, SimpleOrder, UnorderedWrites, type Verdict, type WriteOrder } from './order.ts'

const NEVER_SHARES: LockPolicy = { sharesOnHandover: () => false }

export class LockExtents extends SimpleOrder implements WriteOrder {
  readonly name: 'lock-extents' | 'auto' = 'lock-extents'
  protected readonly host: OrderHost
  protected readonly locks: ExtentLocks
  readonly #unordered = new UnorderedWrites()

  constructor(host: OrderHost, { extentBytes, extentsMax }: OrderSettings, policy: LockPolicy = NEVER_SHARES) {
    super()
    this.host = host
    this.locks = new ExtentLocks(host, { counters: this.counters, policy, extentBytes, extentsMax })
  }

  override get usesLocks(): boolean {
    return true
  }

  override get oldestRequestMs(): number {
    return this.locks.oldestRequestMs
  }

  override admit(write: LocalWrite): boolean {
    if (this.locks.holds(write)) return true
    if (!this.host.connected || !this.host.peerMayWrite) {
      this.#unordered.begin(write)
      return true
    }
    if (!this.locks.take(write)) return false
    this.#unordered.end(write)
    return true
  }

  judge(_incoming: PeerWrite, overlapping: readonly LocalWrite[]): Verdict {
    let verdict: Verdict = 'apply'
    for (const own of overlapping) {
      if (this.isForbiddenBy(own)) return 'forbidden'
      // Left from a time without the peer.
      if (own.localPending) verdict = 'wait'
    }
    return verdict
  }

  /** Whether a write of the peer may not be there, because this one is in flight under a lock of this host. */
  protected isForbiddenBy(own: LocalWrite): boolean {
    return own.peerPending && this.locks.holds(own)
  }

  override ended(write: LocalWrite): void {
    this.#unordered.end(write)
    this.locks.release(write)
  }

  override onPeerPromotes(consent: () => void): void {
    this.#unordered.whenNone(consent)
  }

  override onPeerLost(): void {
    this.#unordered.onPeerLost()
    this.locks.onPeerLost()
  }

  override onLockRequest(extent: number): boolean {
    this.locks.onRequest(extent)
    return true
  }

  override onLockGrant(extent: number, grant: LockGrant): boolean {
    return !grant.shared && this.locks.onGrant(extent, grant)
  }
}
