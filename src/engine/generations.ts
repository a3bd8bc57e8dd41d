// Data generations: what two disks that meet again are to each other, and who copies from whom. Both hosts compute this
// on their own from mirrored inputs and must come to mirrored results; nothing checks that across the link.
//
//   compareGenerations   the rules over the UUIDs of both disks
//   decideSync           what follows from their result: disk states, split-brain policies, roles, options
//   start*, finish*      the UUIDs at both ends of a resync
//
// Source: wire protocol specification sections 5.1 and 5.4 to 5.6. Rule 42 and `survivorWins` are ours.

import type { Uuids } from '../meta/uuids.ts'
import {
  retireBitmap,
  sameGeneration,
  setAndRotateBitmap,
  UUID_JUST_CREATED,
  UUID_RESYNC_OFFSET,
  withPrimaryBit,
} from '../meta/uuids.ts'
import {
  AFTER_SB_CALL_PRI_LOST,
  AFTER_SB_CONSENSUS,
  AFTER_SB_DISCARD_LEAST_CHANGES,
  AFTER_SB_DISCARD_LOCAL,
  AFTER_SB_DISCARD_OLDER_PRIMARY,
  AFTER_SB_DISCARD_REMOTE,
  AFTER_SB_DISCARD_SECONDARY,
  AFTER_SB_DISCARD_YOUNGER_PRIMARY,
  AFTER_SB_DISCARD_ZERO_CHANGES,
  AFTER_SB_VIOLENTLY,
  D_CONSISTENT,
  D_INCONSISTENT,
  D_NEGOTIATING,
  D_OUTDATED,
  FF_WSAME,
  R_PRIMARY,
} from '../wire/drbd/constants.ts'

// ---- comparison (5.4) -----------------------------------------------------------------------------------------------

/** What a `P_UUIDS` tells (3.15): for the own side, what was sent in the last one. */
export interface GenerationView extends Uuids {
  readonly dirtyBits: number
  readonly uuidFlags: number
}

export interface CompareInput {
  readonly self: GenerationView
  readonly peer: GenerationView
  readonly selfCrashedPrimary: boolean
  readonly peerCrashedPrimary: boolean
  /** Roles (R_*) as known at this moment. */
  readonly selfRole: number
  readonly peerRole: number
  /** Agreed protocol version and feature flags. */
  readonly apv: number
  readonly features: number
  readonly resolveConflicts: boolean
  /**
   * Agreed with a coprime peer under protocol C only. A write that was answered is on both disks then, unless a crash took
   * it out of a disk's cache: so the host that did not crash is the source, not the crashed one as in DRBD; and a link that
   * came back before anybody went on alone still leaves differing blocks behind (rule 42).
   */
  readonly survivorWins: boolean
}

/** Both hosts have changes of their own since a generation that both know: policies may decide. */
export const SPLIT_BRAIN_AUTO = 100
/** Split brain that policies decide only if told to (`always-asbp`); also "undecided". */
export const SPLIT_BRAIN = -100
export const UNRELATED = -1000
/** A rule matches that the agreed protocol version or features do not have. */
export const NEEDS_NEWER = -1091

/** 1: source, -1: target, 2 and -2: the same with all blocks, 0: the disks are equal. */
export type SyncDirection = 0 | 1 | -1 | 2 | -2
export type CompareResult =
  | SyncDirection
  | typeof SPLIT_BRAIN_AUTO
  | typeof SPLIT_BRAIN
  | typeof UNRELATED
  | typeof NEEDS_NEWER

export interface Comparison {
  readonly result: CompareResult
  /** Number of the rule in section 5.4; 100 also for "unrelated", as the kernel logs it. */
  readonly rule: number
  /** Rules 34 and 71: own UUIDs, corrected. To be stored before anything else uses them. */
  readonly self?: Uuids
  /** Rules 35 and 51: the remembered UUIDs of the peer, corrected (`finishUuidsTarget` takes them). */
  readonly peer?: Uuids
  readonly failure?: 'needs-newer-protocol'
}

export function compareGenerations(input: CompareInput): Comparison {
  return (
    compareUnused(input) ??
    (sameGeneration(input.self.current, input.peer.current) ? compareEqual(input) : undefined) ??
    comparePeerAhead(input) ??
    compareSelfAhead(input) ??
    compareDiverged(input)
  )
}

/** Rules 10 to 30: a disk that never held data. */
function compareUnused({ self, peer }: CompareInput): Comparison | undefined {
  const selfCreated = sameGeneration(self.current, UUID_JUST_CREATED)
  const peerCreated = sameGeneration(peer.current, UUID_JUST_CREATED)
  if (selfCreated && peerCreated) return { result: 0, rule: 10 }
  if ((selfCreated || isUnset(self.current)) && !peerCreated) return { result: -2, rule: 20 }
  if (!selfCreated && (peerCreated || isUnset(peer.current))) return { result: 2, rule: 30 }
  return undefined
}

/** Rules 34 to 43: both hold the same generation. The tests for zero are exact. */
function compareEqual(input: CompareInput): Comparison {
  const { self, peer, apv } = input
  if (input.survivorWins && input.selfCrashedPrimary !== input.peerCrashedPrimary) {
    return { result: sourceAfterCrash(input) ? 1 : -1, rule: 43 }
  }
  if (self.bitmap !== 0n && peer.bitmap === 0n) {
    const peerFinished = sameGeneration(self.bitmap, peer.history1) && sameGeneration(self.history1, peer.history2)
    const rule = peerFinished ? 34 : 36
    if (apv < 91) return needsNewer(rule)
    if (!peerFinished) return { result: 1, rule }
    // Own "resync finished" was missed: catch up.
    const caughtUp = { self: retireBitmap(uuidsOf(self)) }
    return areBothFrozen(input) ? { ...sourceWithoutLoss(input), ...caughtUp } : { result: 1, rule, ...caughtUp }
  }
  if (self.bitmap === 0n && peer.bitmap !== 0n) {
    const selfFinished = sameGeneration(self.history1, peer.bitmap) && sameGeneration(self.history2, peer.history1)
    const rule = selfFinished ? 35 : 37
    if (apv < 91) return needsNewer(rule)
    if (!selfFinished) return { result: -1, rule }
    const caughtUp = { peer: retireBitmap(uuidsOf(peer)) }
    return areBothFrozen(input) ? { ...sourceWithoutLoss(input), ...caughtUp } : { result: -1, rule, ...caughtUp }
  }
  if (input.selfCrashedPrimary || input.peerCrashedPrimary) return compareAfterCrash(input)
  if (input.survivorWins && self.bitmap === 0n && (self.dirtyBits > 0 || peer.dirtyBits > 0)) {
    return sourceWithoutLoss(input)
  }
  return { result: 0, rule: 40 }
}

/** Rules 40 and 41 with a crashed Primary: its last writes may have reached one disk only. */
function compareAfterCrash(input: CompareInput): Comparison {
  const { selfCrashedPrimary, peerCrashedPrimary } = input
  const selfPrimary = input.selfRole === R_PRIMARY
  const peerPrimary = input.peerRole === R_PRIMARY
  if (selfPrimary || peerPrimary) {
    if ((input.features & FF_WSAME) === 0) return needsNewer(41)
    if (selfPrimary && peerPrimary) return { result: SPLIT_BRAIN, rule: 41 }
    return { result: selfPrimary ? 1 : -1, rule: 41 }
  }
  if (selfCrashedPrimary && peerCrashedPrimary) return { result: input.resolveConflicts ? -1 : 1, rule: 40 }
  return { result: selfCrashedPrimary ? 1 : -1, rule: 40 }
}

/**
 * Rule 43: one host crashed, and all that was answered is on the other one. This comes before rules 34 to 37, which would
 * let a crashed source of a resync win over the target that finished it and is being used. Only a host that is Primary
 * now stands above the survivor: its users read from it.
 */
function sourceAfterCrash(input: CompareInput): boolean {
  const selfPrimary = input.selfRole === R_PRIMARY
  const peerPrimary = input.peerRole === R_PRIMARY
  return selfPrimary === peerPrimary ? input.peerCrashedPrimary : selfPrimary
}

/**
 * Rule 42: nobody crashed and nobody went on alone, so each block that differs was written by a request not yet answered;
 * either content is right, but readers must see one. A Primary keeps what its users may have read from it.
 */
function sourceWithoutLoss(input: CompareInput): Comparison {
  const selfPrimary = input.selfRole === R_PRIMARY
  const peerPrimary = input.peerRole === R_PRIMARY
  const isSource = selfPrimary === peerPrimary ? input.resolveConflicts : selfPrimary
  return { result: isSource ? 1 : -1, rule: 42 }
}

/**
 * Rules 34 and 35 make the one that missed the end of a resync the source, since it may have gone on alone. Two Primaries of one
 * generation have not: each waits for what becomes of the other, and neither could be the target by those rules.
 */
const areBothFrozen = ({ survivorWins, selfRole, peerRole }: CompareInput): boolean =>
  survivorWins && selfRole === R_PRIMARY && peerRole === R_PRIMARY

/** Rules 50 to 60: the peer's disk descends from ours. */
function comparePeerAhead({ self, peer, apv }: CompareInput): Comparison | undefined {
  if (sameGeneration(self.current, peer.bitmap)) return { result: -1, rule: 50 }
  if (sameGeneration(self.current, peer.history1)) {
    const syncUuidLost =
      apv >= 96 ? isResyncOf(peer.bitmap, peer.history1) : sameGeneration(self.history1, peer.history2)
    if (syncUuidLost && apv < 91) return needsNewer(51)
    if (syncUuidLost) return { result: -1, rule: 51, peer: undoResyncStart(peer) }
  }
  if (sameGeneration(self.current, peer.history1) || sameGeneration(self.current, peer.history2)) {
    return { result: -2, rule: 60 }
  }
  return undefined
}

/** Rules 70 to 80: the mirror image. */
function compareSelfAhead({ self, peer, apv }: CompareInput): Comparison | undefined {
  if (sameGeneration(self.bitmap, peer.current)) return { result: 1, rule: 70 }
  if (sameGeneration(self.history1, peer.current)) {
    const syncUuidLost =
      apv >= 96 ? isResyncOf(self.bitmap, self.history1) : sameGeneration(self.history2, peer.history1)
    if (syncUuidLost && apv < 91) return needsNewer(71)
    if (syncUuidLost) return { result: 1, rule: 71, self: undoResyncStart(self) }
  }
  if (sameGeneration(self.history1, peer.current) || sameGeneration(self.history2, peer.current)) {
    return { result: 2, rule: 80 }
  }
  return undefined
}

/** Rule 90 and after: neither descends from the other. Unset history slots count as equal (gotcha 22). */
function compareDiverged({ self, peer }: CompareInput): Comparison {
  if (sameGeneration(self.bitmap, peer.bitmap) && !isUnset(self.bitmap)) return { result: SPLIT_BRAIN_AUTO, rule: 90 }
  const related =
    sameGeneration(self.history1, peer.history1) ||
    sameGeneration(self.history1, peer.history2) ||
    sameGeneration(self.history2, peer.history1) ||
    sameGeneration(self.history2, peer.history2)
  return { result: related ? SPLIT_BRAIN : UNRELATED, rule: 100 }
}

const isUnset = (uuid: bigint): boolean => sameGeneration(uuid, 0n)

const isResyncOf = (bitmap: bigint, before: bigint): boolean =>
  sameGeneration(BigInt.asUintN(64, before + UUID_RESYNC_OFFSET), bitmap)

/** Takes back `startUuidsSource` where the target has not heard of it. */
function undoResyncStart(uuids: Uuids): Uuids {
  const { current, history1, history2 } = uuids
  return { current, bitmap: history1, history1: history2, history2 }
}

function uuidsOf({ current, bitmap, history1, history2 }: Uuids): Uuids {
  return { current, bitmap, history1, history2 }
}

function needsNewer(rule: number): Comparison {
  return { result: NEEDS_NEWER, rule, failure: 'needs-newer-protocol' }
}

// ---- decision (5.4, steps 1 to 11) ----------------------------------------------------------------------------------

export interface DecideInput {
  readonly compared: Comparison
  /** Own disk (D_*) as it is now, and the state found at attach, which stands for it while it is Negotiating. */
  readonly selfDisk: number
  readonly attachDisk: number
  /** The peer's disk: `real` of section 4.4, never Negotiating. */
  readonly peerDisk: number
  readonly selfRole: number
  readonly peerRole: number
  /** Policies by their numbers on the wire (3.12). */
  readonly afterSb0p: number
  readonly afterSb1p: number
  readonly afterSb2p: number
  readonly alwaysAsbp: boolean
  readonly rrConflict: number
  readonly selfDiscardMyData: boolean
  /** FLAGS 1 of the peer's `P_UUIDS`. */
  readonly peerDiscardMyData: boolean
  /** Either side asked for it. */
  readonly dryRun: boolean
  /** SIZE of the last `P_UUIDS`, own and peer's: the peer computes with the same two numbers. */
  readonly selfBitsSent: number
  readonly peerBits: number
  /** Bit 0 of the BITMAP UUIDs: "was Primary when the common generation ended". */
  readonly selfBitmapBit0: boolean
  readonly peerBitmapBit0: boolean
  readonly resolveConflicts: boolean
  /** A kernel does not look at Outdated, and both hosts must come to the same decision. */
  readonly coprimePeer: boolean
  /** Makes this host Secondary if it can, for `call-pri-lost-after-sb`. If not, runs the handler of that name. */
  readonly demote: () => boolean
}

export type SyncRefusalCode =
  | 'peer-too-old'
  | 'unrelated-data'
  | 'split-brain'
  | 'source-without-data'
  | 'primary-would-be-target'
  | 'primary-lost'
  | 'dry-run'

/** One member for each outcome, so that a `switch` or an `if` on it narrows the type. */
export type SyncDecision =
  | { readonly outcome: 'none'; readonly full: boolean }
  /** `full`: all bits of the own bitmap are to be set first. */
  | { readonly outcome: 'source'; readonly full: boolean }
  | { readonly outcome: 'target'; readonly full: boolean }
  | SyncRefusal<'split-brain'>
  | SyncRefusal<'unrelated'>
  | SyncRefusal<'refused'>

interface SyncRefusal<Outcome extends string> {
  readonly outcome: Outcome
  readonly code: SyncRefusalCode
  /** A sentence for the log and the status. */
  readonly reason: string
}

export function decideSync(input: DecideInput): SyncDecision {
  const { compared } = input
  const rule = `rule ${compared.rule}`
  if (compared.result === NEEDS_NEWER) {
    return refused('peer-too-old', `comparing the data (${rule}) needs a newer protocol than the peer speaks`)
  }
  if (compared.result === UNRELATED) {
    return { outcome: 'unrelated', code: 'unrelated-data', reason: 'the disks hold unrelated data' }
  }
  const disk = input.selfDisk === D_NEGOTIATING ? input.attachDisk : input.selfDisk
  let selfPrimary = input.selfRole === R_PRIMARY
  const demote = (): boolean => {
    const demoted = input.demote()
    if (demoted) selfPrimary = false
    return demoted
  }
  const byState = overrideByDisks(compared.result, disk, input.peerDisk)
  const byDisks = input.coprimePeer ? overrideByOutdated(compared.rule, byState, disk, input.peerDisk) : byState
  const direction = resolveSplitBrain(byDisks, { ...input, demote })
  if (direction === undefined) {
    const reason = `split brain (${rule}): both hosts changed their data and no policy decides which to keep`
    return { outcome: 'split-brain', code: 'split-brain', reason }
  }
  if (direction > 0 && disk <= D_INCONSISTENT) {
    return refused(
      'source-without-data',
      `this host would have to be the source (${rule}), but its disk is not consistent`,
    )
  }
  if (direction < 0 && selfPrimary && input.selfDisk >= D_CONSISTENT && compared.rule !== 42) {
    const refusal = refuseTargetPrimary(input.rrConflict, rule)
    if (refusal !== undefined) return refusal
  }
  const outcome = direction === 0 ? 'none' : direction > 0 ? 'source' : 'target'
  const full = direction === 2 || direction === -2
  if (input.dryRun) {
    const plan =
      outcome === 'none' ? 'no resync' : `this host ${outcome} of a ${full ? 'full resync' : 'resync by bitmap'}`
    return refused('dry-run', `dry run: ${plan} (${rule})`)
  }
  return { outcome, full }
}

function refused(code: SyncRefusalCode, reason: string): SyncDecision {
  return { outcome: 'refused', code, reason }
}

type Unresolved = SyncDirection | typeof SPLIT_BRAIN_AUTO | typeof SPLIT_BRAIN

/** Step 2: if one disk alone is Inconsistent, the other is the source, whatever the UUIDs say. */
function overrideByDisks(result: Unresolved, disk: number, peerDisk: number): Unresolved {
  const onlySelf = disk === D_INCONSISTENT && peerDisk > D_INCONSISTENT
  const onlyPeer = peerDisk === D_INCONSISTENT && disk > D_INCONSISTENT
  if (!onlySelf && !onlyPeer) return result
  const full = result === SPLIT_BRAIN || result === 2 || result === -2
  if (onlyPeer) return full ? 2 : 1
  return full ? -2 : -1
}

/**
 * Rules 40 to 43 look at roles and crashes among equal generations. A disk that says itself that it is older (it was to
 * become a target and has not begun) is the target, whoever uses it.
 */
function overrideByOutdated(rule: number, result: Unresolved, disk: number, peerDisk: number): Unresolved {
  if (rule < 40 || rule > 43) return result
  if (disk === D_OUTDATED && peerDisk > D_OUTDATED) return -1
  if (peerDisk === D_OUTDATED && disk > D_OUTDATED) return 1
  return result
}

/** Steps 3 to 5: policies, then the operator's word. Undefined if the split brain stays. */
function resolveSplitBrain(result: Unresolved, input: DecideInput): SyncDirection | undefined {
  if (result !== SPLIT_BRAIN_AUTO && result !== SPLIT_BRAIN) return result
  if (result === SPLIT_BRAIN_AUTO || input.alwaysAsbp) {
    const verdict = applyAfterSplitBrain(input)
    if (verdict !== undefined) return result === SPLIT_BRAIN ? (verdict > 0 ? 2 : -2) : verdict
  }
  if (input.selfDiscardMyData && !input.peerDiscardMyData) return -1
  if (!input.selfDiscardMyData && input.peerDiscardMyData) return 1
  return undefined
}

/** Step 7: the peer's data is the better one, but users of this Primary see the other. Rule 42 does not come here: what
 * differs then was never answered, and this Primary is frozen. */
function refuseTargetPrimary(rrConflict: number, rule: string): SyncDecision | undefined {
  if (rrConflict === AFTER_SB_VIOLENTLY) return undefined
  const reason = `this host is Primary, but would have to take the peer's data (${rule})`
  return refused(rrConflict === AFTER_SB_CALL_PRI_LOST ? 'primary-lost' : 'primary-would-be-target', reason)
}

// ---- after split brain (5.6) ----------------------------------------------------------------------------------------

/** -1: the own changes are discarded, 1: the peer's, undefined: undecided. */
type Verdict = 1 | -1 | undefined

function applyAfterSplitBrain(input: DecideInput): Verdict {
  const primaries = Number(input.selfRole === R_PRIMARY) + Number(input.peerRole === R_PRIMARY)
  if (primaries === 0) return decideNoPrimary(input)
  if (primaries === 1) return decideOnePrimary(input)
  return decideTwoPrimaries(input)
}

function decideNoPrimary(input: DecideInput): Verdict {
  const { selfBitmapBit0, peerBitmapBit0 } = input
  switch (input.afterSb0p) {
    case AFTER_SB_DISCARD_YOUNGER_PRIMARY:
      if (selfBitmapBit0 !== peerBitmapBit0) return selfBitmapBit0 ? 1 : -1
      return discardZeroChanges(input) ?? discardLeastChanges(input)
    case AFTER_SB_DISCARD_OLDER_PRIMARY:
      if (selfBitmapBit0 !== peerBitmapBit0) return selfBitmapBit0 ? -1 : 1
      return discardZeroChanges(input) ?? discardLeastChanges(input)
    case AFTER_SB_DISCARD_ZERO_CHANGES:
      return discardZeroChanges(input)
    case AFTER_SB_DISCARD_LEAST_CHANGES:
      return discardLeastChanges(input)
    case AFTER_SB_DISCARD_LOCAL:
      return -1
    case AFTER_SB_DISCARD_REMOTE:
      return 1
    default:
      return undefined // `disconnect`, and policies that make no sense here
  }
}

function discardZeroChanges({ selfBitsSent, peerBits, resolveConflicts }: DecideInput): Verdict {
  if (selfBitsSent === 0 && peerBits === 0) return resolveConflicts ? -1 : 1
  if (peerBits === 0) return 1
  if (selfBitsSent === 0) return -1
  return undefined
}

function discardLeastChanges({ selfBitsSent, peerBits, resolveConflicts }: DecideInput): Verdict {
  if (selfBitsSent < peerBits) return -1
  if (selfBitsSent > peerBits) return 1
  return resolveConflicts ? -1 : 1
}

function decideOnePrimary(input: DecideInput): Verdict {
  const selfPrimary = input.selfRole === R_PRIMARY
  switch (input.afterSb1p) {
    case AFTER_SB_CONSENSUS: {
      const verdict = decideNoPrimary(input)
      return verdict === (selfPrimary ? 1 : -1) ? verdict : undefined
    }
    case AFTER_SB_DISCARD_SECONDARY:
      return selfPrimary ? 1 : -1
    case AFTER_SB_CALL_PRI_LOST: {
      const verdict = decideNoPrimary(input)
      return verdict === -1 && selfPrimary && !input.demote() ? undefined : verdict
    }
    case AFTER_SB_VIOLENTLY:
      return decideNoPrimary(input)
    default:
      return undefined
  }
}

function decideTwoPrimaries(input: DecideInput): Verdict {
  switch (input.afterSb2p) {
    case AFTER_SB_CALL_PRI_LOST: {
      const verdict = decideNoPrimary(input)
      return verdict === -1 && !input.demote() ? undefined : verdict
    }
    case AFTER_SB_VIOLENTLY:
      return decideNoPrimary(input)
    default:
      return undefined
  }
}

// ---- UUIDs during a resync (5.5) ------------------------------------------------------------------------------------

/**
 * The source, on entering SyncSource or PausedSyncS. The new BITMAP is the sync UUID: it goes to the peer in
 * `P_SYNC_UUID`, before any `P_STATE` of the new state. The comparisons with 0 and 4 are exact: any other value keeps its
 * bit 0, and rule 71 finds it again.
 */
export function startUuidsSource(uuids: Uuids, random: bigint): Uuids {
  const relative = uuids.bitmap !== 0n && uuids.bitmap !== UUID_JUST_CREATED
  return setAndRotateBitmap(uuids, relative ? uuids.bitmap + UUID_RESYNC_OFFSET : random)
}

/** The target, on `P_SYNC_UUID`: what it holds from now on is neither the old nor the new generation. */
export function startUuidsTarget(uuids: Uuids, syncUuid: bigint): Uuids {
  return { ...uuids, current: syncUuid, bitmap: 0n }
}

/** The source, when the last block is in sync and none has failed. */
export function finishUuidsSource(uuids: Uuids): Uuids {
  return retireBitmap(uuids)
}

/**
 * The target, when the last block is in sync and none has failed. `peer`: as received in the last `P_UUIDS`, which was
 * before the resync, with the corrections of rules 35 and 51. Both hosts then hold the same UUIDs but for bit 0.
 */
export function finishUuidsTarget(self: Uuids, peer: Uuids, selfPrimary: boolean): Uuids {
  const rotated = setAndRotateBitmap(uuidsOf(peer), self.current)
  return retireBitmap({ ...rotated, current: withPrimaryBit(peer.current, selfPrimary) })
}
