// The contract between the engine and the order in force for writes from two primaries (`global-write-order`). The rest of
// the engine does not know which one it is. One file each: arbitration.ts; the others follow the same contract.

import type { LocalWrite, PeerWrite } from '../requests.ts'

/**
 * What becomes of a write received from the peer, given the own writes that overlap it:
 * - `apply`: nothing of ours is in its way;
 * - `wait`: judge again when one of the overlapping own writes changes;
 * - `superseded`: ours covers it and is ordered after it: it is not written here, the peer is told P_SUPERSEDED;
 * - `retry`: it overlaps ours in part: not written here, the peer is told to send it again (P_RETRY_WRITE).
 */
export type Verdict = 'apply' | 'wait' | 'superseded' | 'retry'

export interface WriteOrder {
  readonly name: string
  judge(incoming: PeerWrite, overlapping: readonly LocalWrite[]): Verdict
}
