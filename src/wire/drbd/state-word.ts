// The state word of P_STATE and of state change requests (wire-protocol.md 9.1), always in its sender's view.
//
// | bits  | field    |                                     | bits  | field    |                                |
// |-------|----------|-------------------------------------|-------|----------|--------------------------------|
// | 0-1   | role     | the sender's role                   | 18    | aftrIsp  | resync waits for another device |
// | 2-3   | peer     | the other's role, as it knows it    | 19    | peerIsp  | the other pauses the resync    |
// | 4-8   | conn     |                                     | 20    | userIsp  | resync paused by admin         |
// | 9-12  | disk     | the sender's disk                   | 21    | suspNod  | I/O suspended, no data         |
// | 13-16 | pdsk     | the other's disk, as it knows it    | 22    | suspFen  | I/O suspended, fencing         |
// | 17    | susp     | I/O suspended by admin              | 23-31 | -        | 0; not looked at               |

import { assert } from '../../base/assert.ts'

export interface StateWord {
  role: number
  peer: number
  conn: number
  disk: number
  pdsk: number
  susp: boolean
  aftrIsp: boolean
  peerIsp: boolean
  userIsp: boolean
  suspNod: boolean
  suspFen: boolean
}

export function decodeStateWord(word: number): StateWord {
  return {
    role: word & 3,
    peer: (word >>> 2) & 3,
    conn: (word >>> 4) & 31,
    disk: (word >>> 9) & 15,
    pdsk: (word >>> 13) & 15,
    susp: (word & (1 << 17)) !== 0,
    aftrIsp: (word & (1 << 18)) !== 0,
    peerIsp: (word & (1 << 19)) !== 0,
    userIsp: (word & (1 << 20)) !== 0,
    suspNod: (word & (1 << 21)) !== 0,
    suspFen: (word & (1 << 22)) !== 0,
  }
}

export function encodeStateWord(state: StateWord): number {
  const { role, peer, conn, disk, pdsk } = state
  assert((role & 3) === role && (peer & 3) === peer, `role ${role} or ${peer} does not fit in 2 bits`)
  assert((conn & 31) === conn, `connection state ${conn} does not fit in 5 bits`)
  assert((disk & 15) === disk && (pdsk & 15) === pdsk, `disk state ${disk} or ${pdsk} does not fit in 4 bits`)
  let word = role | (peer << 2) | (conn << 4) | (disk << 9) | (pdsk << 13)
  if (state.susp) word |= 1 << 17
  if (state.aftrIsp) word |= 1 << 18
  if (state.peerIsp) word |= 1 << 19
  if (state.userIsp) word |= 1 << 20
  if (state.suspNod) word |= 1 << 21
  if (state.suspFen) word |= 1 << 22
  return word
}
