// What the exit code of a fence-peer handler means for the state of a volume (config-and-tools.md 1.8).

import { D_CONSISTENT, D_INCONSISTENT, D_OUTDATED, D_UPTODATE, R_PRIMARY } from '../wire/drbd/constants.ts'
import type { StateWord } from '../wire/drbd/state-word.ts'

interface Finding {
  readonly change: Partial<StateWord>
  readonly reason: string
}

/** A change of state, a message that nothing is known, or undefined: known, and nothing follows from it. */
export function fencingFinding(exitCode: number, { role, disk }: StateWord): Finding | string | undefined {
  // A Primary that attached its disk before its peer was fenced: what it has is the newest.
  const newest = role === R_PRIMARY && disk === D_CONSISTENT ? { disk: D_UPTODATE } : {}
  switch (exitCode) {
    case 3:
      return { change: { ...newest, pdsk: D_INCONSISTENT, suspFen: false }, reason: 'the peer is Inconsistent' }
    case 4:
    case 7:
      return { change: { ...newest, pdsk: D_OUTDATED, suspFen: false }, reason: 'the peer is fenced' }
    case 5:
      if (disk !== D_UPTODATE) return undefined
      return { change: { pdsk: D_OUTDATED, suspFen: false }, reason: 'the peer is unreachable, taken for down' }
    case 6:
      if (disk <= D_OUTDATED) return undefined
      return { change: { disk: D_OUTDATED }, reason: 'the peer is Primary, this host steps back' }
    default:
      return `fence-peer handler ended with ${exitCode}: I/O stays frozen until the peer is back or "resume-io"`
  }
}
