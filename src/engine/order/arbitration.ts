// Arbitration, the order of the kernel's DRBD 8.4 (wire-protocol.md section 7): each host writes at once, locally and to
// the peer. Of two writes that meet, that of the holder of the resolve-conflicts flag wins: it is ordered last.
//
//        flag holder F                          other host N
//   L: write, send ───────────┐   ┌───────────── R: write, send
//                             └───│──▶ L waits for the verdict on R
//   R overlaps L, in flight ◀─────┘
//   P_SUPERSEDED (R inside L) ───────▶ R is done: it was written just before L. A flush after it covers L in its place
//   P_RETRY_WRITE (otherwise) ───────▶ R is postponed: L is applied, then R is sent again as a new write. So is R inside L with
//                                      FUA, because who says that it is done says that it is stable, and L is not
//
// N never judges: it lets its own write come to an end first. F never waits, with one exception that the old design names
// "a slow local disk reorders": if L is on the peer already and only our own disk is late, then R was sent after L had been
// applied there (sequence numbers guarantee that the acknowledgement of L is seen before R), so R comes after L and waits.

import { DP_FUA } from '../../wire/drbd/constants.ts'
import type { LocalWrite, PeerWrite } from '../requests.ts'
import { SimpleOrder, type Verdict, type WriteOrder } from './order.ts'

export class Arbitration extends SimpleOrder implements WriteOrder {
  readonly name = 'arbitration'
  readonly #holdsFlag: () => boolean

  constructor(holdsFlag: () => boolean) {
    super()
    this.#holdsFlag = holdsFlag
  }

  judge(incoming: PeerWrite, overlapping: readonly LocalWrite[]): Verdict {
    const holdsFlag = this.#holdsFlag()
    let verdict: Verdict = 'apply'
    for (const own of overlapping) {
      if (own.peerPending && holdsFlag) return contains(own, incoming) && !isFua(incoming) ? 'superseded' : 'retry'
      if (own.peerPending || own.localPending) verdict = 'wait'
      else if (own.postponed) incoming.restartOverlapping = true
    }
    return verdict
  }
}

const isFua = ({ flags }: PeerWrite): boolean => (flags & DP_FUA) !== 0

const contains = (outer: LocalWrite, inner: PeerWrite): boolean =>
  outer.sector <= inner.sector && inner.sector + inner.sectors <= outer.sector + outer.sectors
