// The rules over a volume's state: what a new state implies, whether it may be, whether it may follow the old one, how the
// peer's view translates into ours, and which changes the peer has to agree to.
//
//   wanted state -> validateChange (9.5) -> needsPeerConsent (9.7) -> ask -> sanitize (9.4) -> new state
//   forced state -> hardTransition (9.5) -> sanitize (9.4) -> new state
//
// Each table keeps the order of its section: the order is part of the rules. Source: wire protocol specification sections
// 9.4 to 9.8.

import {
  C_AHEAD,
  C_BEHIND,
  C_CONNECTED,
  C_DISCONNECTING,
  C_MASK,
  C_PAUSED_SYNC_S,
  C_PAUSED_SYNC_T,
  C_STANDALONE,
  C_STARTING_SYNC_S,
  C_STARTING_SYNC_T,
  C_SYNC_SOURCE,
  C_SYNC_TARGET,
  C_TEAR_DOWN,
  C_TIMEOUT,
  C_UNCONNECTED,
  C_VERIFY_S,
  C_VERIFY_T,
  C_WF_BITMAP_S,
  C_WF_BITMAP_T,
  C_WF_CONNECTION,
  C_WF_REPORT_PARAMS,
  C_WF_SYNC_UUID,
  D_ATTACHING,
  D_CONSISTENT,
  D_DISKLESS,
  D_FAILED,
  D_INCONSISTENT,
  D_NEGOTIATING,
  D_OUTDATED,
  D_UNKNOWN,
  D_UPTODATE,
  R_PRIMARY,
  R_SECONDARY,
  R_UNKNOWN,
  SS_ALREADY_STANDALONE,
  SS_CONNECTED_OUTDATES,
  SS_DEVICE_IN_USE,
  SS_IN_TRANSIENT_STATE,
  SS_IS_DISKLESS,
  SS_LOWER_THAN_OUTDATED,
  SS_NEED_CONNECTION,
  SS_NO_LOCAL_DISK,
  SS_NO_NET_CONFIG,
  SS_NO_REMOTE_DISK,
  SS_NO_UP_TO_DATE_DISK,
  SS_NO_VERIFY_ALG,
  SS_NOT_SUPPORTED,
  SS_O_VOL_PEER_PRI,
  SS_OUTDATE_WO_CONN,
  SS_PRIMARY_NOP,
  SS_RESYNC_RUNNING,
  SS_SUCCESS,
  SS_TWO_PRIMARIES,
} from '../wire/drbd/constants.ts'
import type { StateWord } from '../wire/drbd/state-word.ts'

export { driverErrorText, stateChangeText } from './result-texts.ts'

/** Fencing policies, in the order in which they are compared (9.2). */
export const FENCING_DONT_CARE = 0
export const FENCING_RESOURCE_ONLY = 1
export const FENCING_STONITH = 2
export const FENCING_NUMBER = {
  'dont-care': FENCING_DONT_CARE,
  'resource-only': FENCING_RESOURCE_ONLY,
  'resource-and-stonith': FENCING_STONITH,
} as const

// ---- what a state implies (9.4) -------------------------------------------------------------------------------------

export interface SanitizeContext {
  readonly fencing: number
  /** on-no-data-accessible = suspend-io. */
  readonly onNoDataSuspend: boolean
  /** State of the disk (D_*) found at attach. */
  readonly attachDisk: number
  /** The exposed data UUID equals the own CURRENT. */
  readonly exposedMatches: boolean
  /** The peer has said that it is connected: it has no objection to these data. */
  readonly peerConnected: boolean
}

type MutableState = { -readonly [K in keyof StateWord]: StateWord[K] }

export function sanitize(next: StateWord, previous: StateWord, context: SanitizeContext): StateWord {
  const state: MutableState = { ...next }
  if (state.conn < C_CONNECTED) {
    state.peerIsp = false
    state.peer = R_UNKNOWN
    if (state.pdsk > D_UNKNOWN || state.pdsk < D_INCONSISTENT) state.pdsk = D_UNKNOWN
  }
  if (state.conn === C_STANDALONE && state.disk === D_DISKLESS && state.role === R_SECONDARY) state.aftrIsp = false
  if (state.conn > C_CONNECTED && (state.disk <= D_FAILED || state.pdsk <= D_FAILED)) state.conn = C_CONNECTED
  if (state.conn < C_CONNECTED && state.disk === D_NEGOTIATING) {
    state.disk = context.exposedMatches ? context.attachDisk : D_DISKLESS
  }
  if (state.conn >= C_CONNECTED && state.conn < C_AHEAD) {
    if (!isJudged(state, context.peerConnected) && !isOldBesideDiskless(state.disk, state.pdsk)) {
      // Disks have been compared, and none is to be a target.
      const isCompared = previous.pdsk < D_INCONSISTENT && state.pdsk >= D_INCONSISTENT
      state.disk = raised(state.disk, isCompared ? D_NEGOTIATING : previous.disk, state.conn, previous.conn)
    }
    if (!judgesPeer(state) && !isOldBesideDiskless(state.pdsk, state.disk))
      state.pdsk = raised(state.pdsk, previous.pdsk, state.conn, previous.conn)
  }
  clampDisks(state)
  if (context.fencing === FENCING_STONITH && isUnfencedAlone(state) && !isUnfencedAlone(previous)) state.suspFen = true
  if (context.onNoDataSuspend && isWithoutData(state) && !isWithoutData(previous)) state.suspNod = true
  pauseOrResume(state)
  return state
}

/**
 * A handshake that ends without a resync makes a Consistent or Outdated disk UpToDate. A resync that ends because the other
 * disk failed does not: what was to be its target stays Outdated (the kernel raises it, and stale data pass for good).
 */
function raised(disk: number, previousDisk: number, conn: number, previousConn: number): number {
  if (disk !== D_CONSISTENT && disk !== D_OUTDATED) return disk
  if (conn === C_CONNECTED && previousConn > C_CONNECTED) return D_OUTDATED
  if (conn === C_CONNECTED && previousConn === C_CONNECTED && previousDisk === D_OUTDATED) return D_OUTDATED
  return D_UPTODATE
}

/**
 * A disk that says itself that it is older than another one stays so beside a host without a disk: the newer data may be on the
 * very disk that is missing there, and would be a second generation beside what is written here. The kernel raises it.
 */
const isOldBesideDiskless = (disk: number, other: number): boolean => disk === D_OUTDATED && other < D_INCONSISTENT

/**
 * Whether a peer without a disk is still to say if these data are the newest: it may know that the one it has lost was newer; a
 * Secondary that is about to attach one may find it so. The kernel raises the disk at once.
 */
function isJudged({ disk, peer, pdsk }: StateWord, peerConnected: boolean): boolean {
  if (disk !== D_CONSISTENT || pdsk >= D_INCONSISTENT) return false
  return !peerConnected || (peer !== R_PRIMARY && pdsk === D_ATTACHING)
}

/** The same from the other side: what this Secondary is about to attach may be newer. */
const judgesPeer = ({ role, disk, pdsk }: StateWord): boolean =>
  role !== R_PRIMARY && pdsk === D_CONSISTENT && (disk === D_ATTACHING || disk === D_NEGOTIATING)

interface DiskRange {
  readonly min: number
  readonly max: number
}

const ANY_DISK: DiskRange = { min: D_DISKLESS, max: D_UPTODATE }
const ONLY_UPTODATE: DiskRange = { min: D_UPTODATE, max: D_UPTODATE }
const ONLY_INCONSISTENT: DiskRange = { min: D_INCONSISTENT, max: D_INCONSISTENT }
const FUTURE_TARGET: DiskRange = { min: D_INCONSISTENT, max: D_OUTDATED }
const PEER_OF_FUTURE_SOURCE: DiskRange = { min: D_INCONSISTENT, max: D_CONSISTENT }
const PEER_UNSEEN: DiskRange = { min: D_INCONSISTENT, max: D_UNKNOWN }

interface DiskRanges {
  readonly disk: DiskRange
  readonly pdsk: DiskRange
}

function diskRanges(conn: number): DiskRanges {
  switch (conn) {
    case C_WF_BITMAP_T:
    case C_PAUSED_SYNC_T:
    case C_STARTING_SYNC_T:
    case C_WF_SYNC_UUID:
    case C_BEHIND:
      return { disk: FUTURE_TARGET, pdsk: ONLY_UPTODATE }
    case C_VERIFY_S:
    case C_VERIFY_T:
      return { disk: ONLY_UPTODATE, pdsk: ONLY_UPTODATE }
    case C_WF_BITMAP_S:
    case C_PAUSED_SYNC_S:
    case C_STARTING_SYNC_S:
    case C_AHEAD:
      return { disk: ONLY_UPTODATE, pdsk: PEER_OF_FUTURE_SOURCE }
    case C_SYNC_TARGET:
      return { disk: ONLY_INCONSISTENT, pdsk: ONLY_UPTODATE }
    case C_SYNC_SOURCE:
      return { disk: ONLY_UPTODATE, pdsk: ONLY_INCONSISTENT }
    default:
      return { disk: ANY_DISK, pdsk: conn < C_CONNECTED ? PEER_UNSEEN : ANY_DISK }
  }
}

function clampDisks(state: MutableState): void {
  const { disk, pdsk } = diskRanges(state.conn)
  state.disk = Math.min(Math.max(state.disk, disk.min), disk.max)
  state.pdsk = Math.min(Math.max(state.pdsk, pdsk.min), pdsk.max)
}

/** A Primary that lost a peer of which nobody knows whether it goes on writing. */
const isUnfencedAlone = (state: StateWord): boolean =>
  state.role === R_PRIMARY && state.conn < C_CONNECTED && state.pdsk > D_OUTDATED

const isWithoutData = (state: StateWord): boolean =>
  state.role === R_PRIMARY && state.disk < D_UPTODATE && state.pdsk < D_UPTODATE

function pauseOrResume(state: MutableState): void {
  if (state.aftrIsp || state.peerIsp || state.userIsp) {
    if (state.conn === C_SYNC_SOURCE) state.conn = C_PAUSED_SYNC_S
    else if (state.conn === C_SYNC_TARGET) state.conn = C_PAUSED_SYNC_T
  } else {
    if (state.conn === C_PAUSED_SYNC_S) state.conn = C_SYNC_SOURCE
    else if (state.conn === C_PAUSED_SYNC_T) state.conn = C_SYNC_TARGET
  }
}

// ---- whether a state may be (9.5) -----------------------------------------------------------------------------------

export interface ValidityContext {
  readonly twoPrimaries: boolean
  /** Of any volume of the resource, the peer is Primary. */
  readonly anyPeerPrimary: boolean
  /** Somebody has the device open. */
  readonly deviceInUse: boolean
  readonly fencing: number
  /** '' = none. */
  readonly verifyAlg: string
  readonly apv: number
}

interface ValidityRule {
  readonly code: number
  readonly broken: (state: StateWord, context: ValidityContext) => boolean
}

const isVerifying = (conn: number): boolean => conn === C_VERIFY_S || conn === C_VERIFY_T
const isStartingSync = (conn: number): boolean => conn === C_STARTING_SYNC_S || conn === C_STARTING_SYNC_T
const refusesOutdated = (conn: number): boolean =>
  conn === C_CONNECTED || conn === C_WF_BITMAP_S || conn === C_SYNC_SOURCE || conn === C_PAUSED_SYNC_S

/** Rows 1 to 15 of the table. */
const VALIDITY_RULES: readonly ValidityRule[] = [
  { code: SS_TWO_PRIMARIES, broken: (s, c) => !c.twoPrimaries && s.role === R_PRIMARY && s.peer === R_PRIMARY },
  { code: SS_O_VOL_PEER_PRI, broken: (s, c) => !c.twoPrimaries && s.role === R_PRIMARY && c.anyPeerPrimary },
  { code: SS_DEVICE_IN_USE, broken: (s, c) => s.role === R_SECONDARY && c.deviceInUse },
  {
    code: SS_NO_UP_TO_DATE_DISK,
    broken: (s) => s.role === R_PRIMARY && s.conn < C_CONNECTED && s.disk < D_UPTODATE,
  },
  {
    code: SS_PRIMARY_NOP,
    broken: (s, c) =>
      c.fencing >= FENCING_RESOURCE_ONLY && s.role === R_PRIMARY && s.conn < C_CONNECTED && s.pdsk >= D_UNKNOWN,
  },
  {
    code: SS_NO_UP_TO_DATE_DISK,
    broken: (s) => s.role === R_PRIMARY && s.disk <= D_INCONSISTENT && s.pdsk <= D_INCONSISTENT,
  },
  { code: SS_NO_LOCAL_DISK, broken: (s) => s.conn > C_CONNECTED && s.disk < D_INCONSISTENT },
  { code: SS_NO_REMOTE_DISK, broken: (s) => s.conn > C_CONNECTED && s.pdsk < D_INCONSISTENT },
  {
    code: SS_NO_UP_TO_DATE_DISK,
    broken: (s) => s.conn > C_CONNECTED && s.disk < D_UPTODATE && s.pdsk < D_UPTODATE,
  },
  { code: SS_CONNECTED_OUTDATES, broken: (s) => refusesOutdated(s.conn) && s.disk === D_OUTDATED },
  { code: SS_NO_VERIFY_ALG, broken: (s, c) => isVerifying(s.conn) && c.verifyAlg === '' },
  { code: SS_NOT_SUPPORTED, broken: (s, c) => isVerifying(s.conn) && c.apv < 88 },
  { code: SS_NO_UP_TO_DATE_DISK, broken: isWithoutData },
  { code: SS_NEED_CONNECTION, broken: (s) => isStartingSync(s.conn) && s.pdsk === D_UNKNOWN },
  { code: SS_CONNECTED_OUTDATES, broken: (s) => s.conn >= C_CONNECTED && s.pdsk === D_UNKNOWN },
]

/** Code of the first rule that the state breaks, else SS_SUCCESS. */
export function validate(state: StateWord, context: ValidityContext): number {
  return VALIDITY_RULES.find((rule) => rule.broken(state, context))?.code ?? SS_SUCCESS
}

// ---- whether a state may follow another (9.5) -----------------------------------------------------------------------

export interface TransitionContext {
  /** The handshake is between steps 9 and 15 of section 4. */
  readonly handshakeWindow: boolean
}

interface TransitionRule {
  readonly code: number
  readonly broken: (from: StateWord, to: StateWord, context: TransitionContext) => boolean
}

/** The rows of the table for requests. */
const TRANSITION_RULES: readonly TransitionRule[] = [
  { code: SS_RESYNC_RUNNING, broken: (from, to) => from.conn > C_CONNECTED && isStartingSync(to.conn) },
  {
    code: SS_ALREADY_STANDALONE,
    broken: (from, to) => from.conn === C_STANDALONE && to.conn === C_DISCONNECTING,
  },
  { code: SS_IS_DISKLESS, broken: (from, to) => from.disk === D_DISKLESS && to.disk > D_ATTACHING },
  { code: SS_NO_NET_CONFIG, broken: (from, to) => from.conn < C_UNCONNECTED && to.conn === C_WF_CONNECTION },
  {
    code: SS_LOWER_THAN_OUTDATED,
    broken: (from, to) => from.disk < D_OUTDATED && from.disk !== D_ATTACHING && to.disk === D_OUTDATED,
  },
  {
    code: SS_IN_TRANSIENT_STATE,
    broken: (from, to) => from.conn === C_UNCONNECTED && to.conn === C_DISCONNECTING,
  },
  { code: SS_IN_TRANSIENT_STATE, broken: disturbsHandshake },
  { code: SS_IN_TRANSIENT_STATE, broken: promotesUnsettled },
  { code: SS_NEED_CONNECTION, broken: (from, to) => from.conn < C_CONNECTED && isVerifying(to.conn) },
  {
    code: SS_RESYNC_RUNNING,
    broken: (from, to) => from.conn > C_CONNECTED && from.conn !== to.conn && isVerifying(to.conn),
  },
  { code: SS_NEED_CONNECTION, broken: (from, to) => from.conn < C_CONNECTED && isStartingSync(to.conn) },
  {
    code: SS_NEED_CONNECTION,
    broken: (from, to) => from.conn < C_WF_REPORT_PARAMS && (to.conn === C_SYNC_SOURCE || to.conn === C_SYNC_TARGET),
  },
  {
    code: SS_OUTDATE_WO_CONN,
    broken: (from, to) =>
      from.conn < C_CONNECTED && to.conn === C_DISCONNECTING && from.pdsk > D_OUTDATED && to.pdsk === D_OUTDATED,
  },
]

function disturbsHandshake(from: StateWord, to: StateWord, context: TransitionContext): boolean {
  if (!context.handshakeWindow) return false
  const opens = from.conn === C_WF_CONNECTION && to.conn === C_WF_REPORT_PARAMS
  const completes = from.conn === C_WF_REPORT_PARAMS && to.conn >= C_CONNECTED
  return !opens && !completes
}

/** A promotion while the peer has the good data and it is not yet settled whether we are going to get it. */
function promotesUnsettled(from: StateWord, to: StateWord): boolean {
  if (from.role === R_PRIMARY || to.role !== R_PRIMARY || to.pdsk !== D_UPTODATE) return false
  if (to.disk === D_UPTODATE || to.disk === D_DISKLESS) return false
  return to.conn <= C_WF_SYNC_UUID || to.conn !== from.conn
}

/** "Soft" rules, for requests: code of the last rule that the change breaks, else SS_SUCCESS. */
export function validateTransition(from: StateWord, to: StateWord, context: TransitionContext): number {
  let code: number = SS_SUCCESS
  for (const rule of TRANSITION_RULES) {
    if (rule.broken(from, to, context)) code = rule.code
  }
  return code
}

/** The whole check of a request: a rule that the old state broke already is not held against the new one. */
export function validateChange(from: StateWord, to: StateWord, context: ValidityContext & TransitionContext): number {
  const broken = VALIDITY_RULES.find((rule) => rule.broken(to, context) && !rule.broken(from, context))
  return broken?.code ?? validateTransition(from, to, context)
}

/** Rules that hold for forced changes, too; the first one broken wins. */
export function hardTransition(from: StateWord, to: StateWord): number {
  if (from.conn !== to.conn) {
    if (from.conn === C_STANDALONE && to.conn === C_DISCONNECTING) return SS_ALREADY_STANDALONE
    if (from.conn === C_STANDALONE && to.conn !== C_UNCONNECTED) return SS_NEED_CONNECTION
    if (from.conn < C_WF_REPORT_PARAMS && to.conn >= C_CONNECTED) return SS_NEED_CONNECTION
    const broken = from.conn >= C_TIMEOUT && from.conn <= C_TEAR_DOWN
    if (broken && to.conn !== C_UNCONNECTED && to.conn !== C_DISCONNECTING) return SS_IN_TRANSIENT_STATE
    if (from.conn === C_DISCONNECTING && to.conn !== C_STANDALONE) return SS_IN_TRANSIENT_STATE
  }
  if (from.disk === D_DISKLESS && to.disk === D_FAILED) return SS_IS_DISKLESS
  return SS_SUCCESS
}

// ---- the peer's requests (9.6) --------------------------------------------------------------------------------------

/** Turns a mask or a value of the peer's request, which is in its view, into ours. */
export function translatePeerView(word: StateWord): StateWord {
  return {
    ...word,
    role: word.peer,
    peer: word.role,
    disk: word.pdsk,
    pdsk: word.disk,
    conn: translateConn(word.conn),
    peerIsp: word.aftrIsp || word.userIsp,
  }
}

function translateConn(conn: number): number {
  switch (conn) {
    case C_DISCONNECTING:
      return C_TEAR_DOWN
    case C_STARTING_SYNC_S:
      return C_STARTING_SYNC_T
    case C_STARTING_SYNC_T:
      return C_STARTING_SYNC_S
    case C_VERIFY_S:
      return C_VERIFY_T
    case C_WF_REPORT_PARAMS:
    case C_CONNECTED:
    case C_MASK:
      return conn
    default:
      return 0
  }
}

// ---- own requests (9.7) ---------------------------------------------------------------------------------------------

/** Mask and value of a request, state words in our view. New state = (old AND NOT mask) OR value. */
export interface StateChange {
  readonly mask: number
  readonly value: number
}

/** role not Primary -> Primary; by force also disk -> UpToDate. */
export const REQUEST_PRIMARY: StateChange = { mask: 0x0000_0003, value: 0x0000_0001 }
export const REQUEST_PRIMARY_FORCED: StateChange = { mask: 0x0000_1e03, value: 0x0000_1001 }
export const REQUEST_INVALIDATE_REMOTE: StateChange = { mask: 0x0000_01f0, value: 0x0000_00b0 }
export const REQUEST_INVALIDATE: StateChange = { mask: 0x0000_01f0, value: 0x0000_00c0 }
export const REQUEST_DETACH: StateChange = { mask: 0x0000_1e00, value: 0x0000_0400 }
export const REQUEST_VERIFY: StateChange = { mask: 0x0000_01f0, value: 0x0000_0120 }
export const REQUEST_REMOVE_VOLUME: StateChange = { mask: 0x0000_01f0, value: 0x0000_0090 }
/** The next three are connection-wide. */
export const REQUEST_DISCONNECT: StateChange = { mask: 0x0000_01f0, value: 0x0000_0010 }
/** Own fencing rules refuse to leave a peer that may go on: outdate it. */
export const REQUEST_DISCONNECT_OUTDATE_PEER: StateChange = { mask: 0x0001_e1f0, value: 0x0000_a010 }
/** The peer's rules refuse: outdate ourselves. */
export const REQUEST_DISCONNECT_OUTDATE_SELF: StateChange = { mask: 0x0000_1ff0, value: 0x0000_0a10 }

/** Whether a connected peer has to be asked first. A disk failure is forced: do not ask here for it. */
export function needsPeerConsent(from: StateWord, to: StateWord): boolean {
  if (from.conn < C_CONNECTED) return false
  if (from.role !== R_PRIMARY && to.role === R_PRIMARY) return true
  if (from.disk !== D_FAILED && to.disk === D_FAILED) return true
  if (from.conn === to.conn) return false
  if (isStartingSync(to.conn) || to.conn === C_DISCONNECTING) return true
  return from.conn === C_CONNECTED && (to.conn === C_VERIFY_S || to.conn === C_WF_REPORT_PARAMS)
}
