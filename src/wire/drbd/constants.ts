// Numbers of the DRBD 8.4 protocol with the kernel's names. Facts: wire-protocol.md sections 2 (headers, limits), 3.3
// (features), 3.5 (dp_flags), 3.12 (policies), 3.15 (UUID flags), 9.2 (states), 9.8 (reply codes).

import { KIB, MIB } from '../../base/units.ts'

// ---- headers and versions (2.1 .. 2.5) ------------------------------------------------------------------------------

export const MAGIC_H80 = 0x83740267
export const MAGIC_H95 = 0x835a
export const MAGIC_H100 = 0x8620ec20

export const APV_MIN = 86
export const APV_MAX = 101
/** Assumed until the features are exchanged: plain h80 headers. */
export const APV_HANDSHAKE = 80

/** Payloads longer than this travel in h95 at APV 95..99 (2.4). */
export const H80_PAYLOAD_BYTES_MAX = 32 * KIB
export const H80_LENGTH_MAX = 0xffff

/** Largest data of one write or reply (2.5). */
export const dataBytesMax = (apv: number): number => (apv >= 100 ? MIB : apv >= 95 ? 128 * KIB : 32 * KIB)
/** Largest range of one request (3.7). */
export const REQUEST_BYTES_MAX = MIB
/** Largest range of one discard, zero-out or write-same with FF_WSAME, and what any receiver takes at most (2.5). */
export const DISCARD_BYTES_MAX = 128 * MIB
/** The same without FF_WSAME: a limit for senders. */
export const DISCARD_BYTES_MAX_WITHOUT_WSAME = 4 * MIB
/** Longest digest of the Linux crypto API (SHA-512). */
export const DIGEST_BYTES_MAX = 64
export const CHALLENGE_BYTES = 64
export const CHALLENGE_BYTES_MAX = 128
/** Header and payload of a bitmap packet fill at most one page (3.17, 3.18). */
export const BITMAP_PACKET_BYTES_MAX = 4096
export const COMPRESSED_BITMAP_APV_MIN = 90

export const headerBytes = (apv: number): number => (apv >= 100 ? 16 : 8)

// ---- features (3.3) -------------------------------------------------------------------------------------------------

export const FF_TRIM = 1
export const FF_THIN_RESYNC = 2
export const FF_WSAME = 4
export const FF_WZEROES = 8
/** Ours: the order of writes can be negotiated. Kernels mask it away. */
export const FF_COPRIME_ORDER = 1 << 24

// ---- writes (3.4, 3.5) ----------------------------------------------------------------------------------------------

export const DP_HARDBARRIER = 1
export const DP_RW_SYNC = 2
export const DP_MAY_SET_IN_SYNC = 4
export const DP_UNPLUG = 8
export const DP_FUA = 16
export const DP_FLUSH = 32
export const DP_DISCARD = 64
export const DP_SEND_RECEIVE_ACK = 128
export const DP_SEND_WRITE_ACK = 256
export const DP_WSAME = 512
export const DP_ZEROES = 1024
/** Ours: the sender has not written it, and waits for P_WRITE_NOW (docs/protocol.md). */
export const DP_ASKS_FIRST = 0x1_0000

/** Both halves of the block id that marks resync traffic (ID_SYNCER). */
export const ID_SYNCER_WORD = 0xffff_ffff
/** Block ids (low half; the high half is 0) of P_OV_RESULT. */
export const OV_IN_SYNC = 4711
export const OV_OUT_OF_SYNC = 4712

// ---- handshake (3.12, 3.14, 3.15) -----------------------------------------------------------------------------------

export const PROTOCOL_A = 1
export const PROTOCOL_B = 2
export const PROTOCOL_C = 3

/** conn_flags of P_PROTOCOL. */
export const CF_DISCARD_MY_DATA = 1
export const CF_DRY_RUN = 2

export const AFTER_SB_DISCONNECT = 0
export const AFTER_SB_DISCARD_YOUNGER_PRIMARY = 1
export const AFTER_SB_DISCARD_OLDER_PRIMARY = 2
export const AFTER_SB_DISCARD_ZERO_CHANGES = 3
export const AFTER_SB_DISCARD_LEAST_CHANGES = 4
export const AFTER_SB_DISCARD_LOCAL = 5
export const AFTER_SB_DISCARD_REMOTE = 6
export const AFTER_SB_CONSENSUS = 7
export const AFTER_SB_DISCARD_SECONDARY = 8
export const AFTER_SB_CALL_PRI_LOST = 9
export const AFTER_SB_VIOLENTLY = 10

/** dds_flags of P_SIZES. */
export const DDSF_FORCED = 1
export const DDSF_NO_RESYNC = 2

export const UUID_JUST_CREATED = 4n

/** FLAGS of P_UUIDS. */
export const UF_DISCARD_MY_DATA = 1
export const UF_CRASHED_PRIMARY = 2
export const UF_INCONSISTENT = 4
export const UF_SKIP_INITIAL_SYNC = 8

// ---- ours (docs/protocol.md) ----------------------------------------------------------------------------------------

/** Orders of P_ORDER, by number. */
export const ORDER_NAMES = ['arbitration', 'coordinator', 'lock-extents', 'auto'] as const
/** order_flags of P_ORDER: P_WRITE_NOW is sent when the write is on the coordinator's disk, and is its acknowledgement. */
export const OF_WRITE_NOW_ACKS = 1
/** coordinator of P_ORDER. */
export const COORDINATOR_NAMES = ['flag', 'local', 'peer'] as const
/** now_flags of P_WRITE_NOW: the write is on the sender's disk. */
export const NF_WRITTEN = 1
/** The sender does not have it, and awaits no word of it. */
export const NF_ALONE = 2
/** lock_flags of P_LOCK_EXTENT_ACK: both hosts may write in it, in the order of the coordinator. */
export const LF_SHARED = 1
/** High half of the block id in an acknowledgement of the sender's own write: it is on the sender's disk. */
export const OWN_WRITE_HI = 1

// ---- states (9.2) ---------------------------------------------------------------------------------------------------

export const R_UNKNOWN = 0
export const R_PRIMARY = 1
export const R_SECONDARY = 2
export const R_MASK = 3

export const C_STANDALONE = 0
export const C_DISCONNECTING = 1
export const C_UNCONNECTED = 2
export const C_TIMEOUT = 3
export const C_BROKEN_PIPE = 4
export const C_NETWORK_FAILURE = 5
export const C_PROTOCOL_ERROR = 6
export const C_TEAR_DOWN = 7
export const C_WF_CONNECTION = 8
export const C_WF_REPORT_PARAMS = 9
export const C_CONNECTED = 10
export const C_STARTING_SYNC_S = 11
export const C_STARTING_SYNC_T = 12
export const C_WF_BITMAP_S = 13
export const C_WF_BITMAP_T = 14
export const C_WF_SYNC_UUID = 15
export const C_SYNC_SOURCE = 16
export const C_SYNC_TARGET = 17
export const C_VERIFY_S = 18
export const C_VERIFY_T = 19
export const C_PAUSED_SYNC_S = 20
export const C_PAUSED_SYNC_T = 21
export const C_AHEAD = 22
export const C_BEHIND = 23
export const C_MASK = 31

export const D_DISKLESS = 0
export const D_ATTACHING = 1
export const D_FAILED = 2
export const D_NEGOTIATING = 3
export const D_INCONSISTENT = 4
export const D_OUTDATED = 5
export const D_UNKNOWN = 6
export const D_CONSISTENT = 7
export const D_UPTODATE = 8
export const D_MASK = 15

const ROLE_NAMES = ['Unknown', 'Primary', 'Secondary'] as const

const CONNECTION_STATE_NAMES = [
  'StandAlone',
  'Disconnecting',
  'Unconnected',
  'Timeout',
  'BrokenPipe',
  'NetworkFailure',
  'ProtocolError',
  'TearDown',
  'WFConnection',
  'WFReportParams',
  'Connected',
  'StartingSyncS',
  'StartingSyncT',
  'WFBitMapS',
  'WFBitMapT',
  'WFSyncUUID',
  'SyncSource',
  'SyncTarget',
  'VerifyS',
  'VerifyT',
  'PausedSyncS',
  'PausedSyncT',
  'Ahead',
  'Behind',
] as const

const DISK_STATE_NAMES = [
  'Diskless',
  'Attaching',
  'Failed',
  'Negotiating',
  'Inconsistent',
  'Outdated',
  'DUnknown',
  'Consistent',
  'UpToDate',
] as const

export type RoleWord = (typeof ROLE_NAMES)[number]

export const roleName = (role: number): RoleWord => ROLE_NAMES[role] ?? 'Unknown'
/** A number that no state has (a peer can send any five bits) comes out as `conn(29)`. */
export const connectionStateName = (state: number): string => CONNECTION_STATE_NAMES[state] ?? `conn(${state})`
export const diskStateName = (state: number): string => DISK_STATE_NAMES[state] ?? `disk(${state})`

// ---- reply codes of state change requests (9.8) ---------------------------------------------------------------------

export const SS_CW_NO_NEED = 4
export const SS_CW_SUCCESS = 3
export const SS_NOTHING_TO_DO = 2
export const SS_SUCCESS = 1
export const SS_UNKNOWN_ERROR = 0
export const SS_TWO_PRIMARIES = -1
export const SS_NO_UP_TO_DATE_DISK = -2
export const SS_NO_LOCAL_DISK = -4
export const SS_NO_REMOTE_DISK = -5
export const SS_CONNECTED_OUTDATES = -6
export const SS_PRIMARY_NOP = -7
export const SS_RESYNC_RUNNING = -8
export const SS_ALREADY_STANDALONE = -9
export const SS_CW_FAILED_BY_PEER = -10
export const SS_IS_DISKLESS = -11
export const SS_DEVICE_IN_USE = -12
export const SS_NO_NET_CONFIG = -13
export const SS_NO_VERIFY_ALG = -14
export const SS_NEED_CONNECTION = -15
export const SS_LOWER_THAN_OUTDATED = -16
export const SS_NOT_SUPPORTED = -17
export const SS_IN_TRANSIENT_STATE = -18
export const SS_CONCURRENT_ST_CHG = -19
export const SS_O_VOL_PEER_PRI = -20
export const SS_OUTDATE_WO_CONN = -21
