// What a change of a volume's state is: whether it is one at all, what it says about the peer's data, and its line in the log.

import {
  connectionStateName,
  D_DISKLESS,
  D_FAILED,
  D_INCONSISTENT,
  D_OUTDATED,
  D_UNKNOWN,
  diskStateName,
} from '../wire/drbd/constants.ts'
import type { StateWord } from '../wire/drbd/state-word.ts'

/** The peer's data are no longer there for us (wire-protocol.md 5.2). */
export function lostPeerData(old: number, next: number): boolean {
  const had = old >= D_INCONSISTENT && old !== D_UNKNOWN && old !== D_OUTDATED
  const has = next >= D_INCONSISTENT && next !== D_UNKNOWN && next !== D_OUTDATED
  if (had && !has) return true
  return old === D_UNKNOWN && (next === D_DISKLESS || next === D_FAILED || next === D_OUTDATED)
}

export function sameState(a: StateWord, b: StateWord): boolean {
  return (
    a.role === b.role &&
    a.peer === b.peer &&
    a.conn === b.conn &&
    a.disk === b.disk &&
    a.pdsk === b.pdsk &&
    a.susp === b.susp &&
    a.aftrIsp === b.aftrIsp &&
    a.peerIsp === b.peerIsp &&
    a.userIsp === b.userIsp &&
    a.suspNod === b.suspNod &&
    a.suspFen === b.suspFen
  )
}

export function describeChange(old: StateWord, next: StateWord): string {
  const parts: string[] = []
  if (old.role !== next.role) parts.push(`role ${old.role}->${next.role}`)
  if (old.peer !== next.peer) parts.push(`peer ${old.peer}->${next.peer}`)
  if (old.conn !== next.conn) parts.push(`conn ${connectionStateName(old.conn)} -> ${connectionStateName(next.conn)}`)
  if (old.disk !== next.disk) parts.push(`disk ${diskStateName(old.disk)} -> ${diskStateName(next.disk)}`)
  if (old.pdsk !== next.pdsk) parts.push(`pdsk ${diskStateName(old.pdsk)} -> ${diskStateName(next.pdsk)}`)
  if (old.suspFen !== next.suspFen) parts.push(`frozen for fencing ${old.suspFen} -> ${next.suspFen}`)
  return parts.join(', ') || 'flags'
}
