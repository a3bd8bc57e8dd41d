// What to make of an old and a new state of a volume: whether anything changed, how to say it, and what it means.

import {
  C_AHEAD,
  C_CONNECTED,
  C_PAUSED_SYNC_S,
  C_PAUSED_SYNC_T,
  C_SYNC_SOURCE,
  C_SYNC_TARGET,
  C_VERIFY_S,
  C_VERIFY_T,
  connectionStateName,
  D_ATTACHING,
  D_DISKLESS,
  D_FAILED,
  D_INCONSISTENT,
  D_OUTDATED,
  D_UNKNOWN,
  D_UPTODATE,
  diskStateName,
  R_PRIMARY,
} from '../wire/drbd/constants.ts'
import type { StateWord } from '../wire/drbd/state-word.ts'

/** The peer's data are no longer there for us (wire-protocol.md 5.2). */
export function lostPeerData(old: number, next: number): boolean {
  const had = old >= D_INCONSISTENT && old !== D_UNKNOWN && old !== D_OUTDATED
  const has = next >= D_INCONSISTENT && next !== D_UNKNOWN && next !== D_OUTDATED
  if (had && !has) return true
  return old === D_UNKNOWN && (next === D_DISKLESS || next === D_FAILED || next === D_OUTDATED)
}

/** A disk is given up, the own one or the peer's; it may be attached again. */
export const isDiskLost = (old: number, next: number): boolean => old > D_FAILED && next <= D_FAILED

/** A peer without a disk has become Primary: what it writes is here only (wire-protocol.md 5.2). */
export const isNewWriterHere = (old: StateWord, next: StateWord): boolean =>
  old.peer !== R_PRIMARY && next.peer === R_PRIMARY && next.pdsk < D_INCONSISTENT

/** P_STATE goes out for facts that the peer cannot infer (9.3). */
export function isForPeer(old: StateWord, next: StateWord, apv: number): boolean {
  if (next.conn < C_CONNECTED) return false
  const failed =
    (next.disk === D_FAILED && old.disk !== D_FAILED) || (next.disk === D_DISKLESS && old.disk !== D_DISKLESS)
  const worse = old.disk === D_UPTODATE && next.disk === D_INCONSISTENT && next.conn === C_CONNECTED
  const paused = old.aftrIsp !== next.aftrIsp || old.userIsp !== next.userIsp
  const synced =
    old.disk < D_UPTODATE &&
    old.conn >= C_SYNC_SOURCE &&
    next.conn === C_CONNECTED &&
    old.conn !== C_SYNC_SOURCE &&
    old.conn !== C_PAUSED_SYNC_S
  const verified = old.conn === C_VERIFY_S && next.conn === C_CONNECTED && apv >= 97 && apv !== 100
  return isEstablished(old, next) || old.role !== next.role || failed || worse || paused || synced || verified
}

const isEstablished = (old: StateWord, next: StateWord): boolean =>
  old.conn < C_CONNECTED || (next.conn === C_AHEAD && old.conn !== C_AHEAD)

/**
 * The peer has attached its disk, and waits for P_UUIDS and P_STATE. Also one that we met, or that spoke of something else, while it
 * did that; the kernel would leave that one waiting.
 */
export const hasPeersDiskAppeared = (old: StateWord, next: StateWord): boolean =>
  next.conn >= C_CONNECTED &&
  !isEstablished(old, next) &&
  old.pdsk <= D_ATTACHING &&
  next.pdsk >= D_INCONSISTENT &&
  next.pdsk !== D_UNKNOWN

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

export function describe(old: StateWord, next: StateWord): string {
  const parts: string[] = []
  if (old.role !== next.role) parts.push(`role ${old.role}->${next.role}`)
  if (old.peer !== next.peer) parts.push(`peer ${old.peer}->${next.peer}`)
  if (old.conn !== next.conn) parts.push(`conn ${connectionStateName(old.conn)} -> ${connectionStateName(next.conn)}`)
  if (old.disk !== next.disk) parts.push(`disk ${diskStateName(old.disk)} -> ${diskStateName(next.disk)}`)
  if (old.pdsk !== next.pdsk) parts.push(`pdsk ${diskStateName(old.pdsk)} -> ${diskStateName(next.pdsk)}`)
  if (old.suspFen !== next.suspFen) parts.push(`frozen for fencing ${old.suspFen} -> ${next.suspFen}`)
  if (old.suspNod !== next.suspNod) parts.push(`frozen without data ${old.suspNod} -> ${next.suspNod}`)
  return parts.join(', ') || 'flags'
}

export const isSyncing = (conn: number): boolean =>
  conn === C_SYNC_SOURCE || conn === C_SYNC_TARGET || conn === C_PAUSED_SYNC_S || conn === C_PAUSED_SYNC_T

export const isVerifying = (conn: number): boolean => conn === C_VERIFY_S || conn === C_VERIFY_T
