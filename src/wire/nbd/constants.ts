// Numbers of the NBD protocol, spelled as in its specification (doc/proto.md of the NBD project, section "Values").

// ---- magic numbers (64-bit ones as their two halves) ----------------------------------------------------------------

/** "NBDMAGIC" */
export const NBD_MAGIC_HIGH = 0x4e42444d
export const NBD_MAGIC_LOW = 0x41474943
/** "IHAVEOPT" */
export const NBD_OPTS_MAGIC_HIGH = 0x49484156
export const NBD_OPTS_MAGIC_LOW = 0x454f5054
export const NBD_REP_MAGIC_HIGH = 0x0003e889
export const NBD_REP_MAGIC_LOW = 0x045565a9
export const NBD_REQUEST_MAGIC = 0x25609513
export const NBD_SIMPLE_REPLY_MAGIC = 0x67446698
export const NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef

// ---- handshake flags (server) and client flags ----------------------------------------------------------------------

export const NBD_FLAG_FIXED_NEWSTYLE = 1 << 0
export const NBD_FLAG_NO_ZEROES = 1 << 1
export const NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0
export const NBD_FLAG_C_NO_ZEROES = 1 << 1

// ---- transmission flags ---------------------------------------------------------------------------------------------

export const NBD_FLAG_HAS_FLAGS = 1 << 0
export const NBD_FLAG_READ_ONLY = 1 << 1
export const NBD_FLAG_SEND_FLUSH = 1 << 2
export const NBD_FLAG_SEND_FUA = 1 << 3
export const NBD_FLAG_ROTATIONAL = 1 << 4
export const NBD_FLAG_SEND_TRIM = 1 << 5
export const NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6
export const NBD_FLAG_SEND_DF = 1 << 7
export const NBD_FLAG_CAN_MULTI_CONN = 1 << 8
export const NBD_FLAG_SEND_CACHE = 1 << 10
export const NBD_FLAG_SEND_FAST_ZERO = 1 << 11

// ---- options --------------------------------------------------------------------------------------------------------

export const NBD_OPT_EXPORT_NAME = 1
export const NBD_OPT_ABORT = 2
export const NBD_OPT_LIST = 3
export const NBD_OPT_STARTTLS = 5
export const NBD_OPT_INFO = 6
export const NBD_OPT_GO = 7
export const NBD_OPT_STRUCTURED_REPLY = 8
export const NBD_OPT_LIST_META_CONTEXT = 9
export const NBD_OPT_SET_META_CONTEXT = 10

// ---- option replies; errors have bit 31 set --------------------------------------------------------------------------

export const NBD_REP_ACK = 1
export const NBD_REP_SERVER = 2
export const NBD_REP_INFO = 3
export const NBD_REP_META_CONTEXT = 4
export const NBD_REP_FLAG_ERROR = 0x8000_0000
export const NBD_REP_ERR_UNSUP = 0x8000_0001
export const NBD_REP_ERR_POLICY = 0x8000_0002
export const NBD_REP_ERR_INVALID = 0x8000_0003
export const NBD_REP_ERR_PLATFORM = 0x8000_0004
export const NBD_REP_ERR_TLS_REQD = 0x8000_0005
export const NBD_REP_ERR_UNKNOWN = 0x8000_0006
export const NBD_REP_ERR_SHUTDOWN = 0x8000_0007
export const NBD_REP_ERR_BLOCK_SIZE_REQD = 0x8000_0008
export const NBD_REP_ERR_TOO_BIG = 0x8000_0009

// ---- information types of NBD_REP_INFO ------------------------------------------------------------------------------

export const NBD_INFO_EXPORT = 0
export const NBD_INFO_NAME = 1
export const NBD_INFO_DESCRIPTION = 2
export const NBD_INFO_BLOCK_SIZE = 3

// ---- commands and their flags ---------------------------------------------------------------------------------------

export const NBD_CMD_READ = 0
export const NBD_CMD_WRITE = 1
export const NBD_CMD_DISC = 2
export const NBD_CMD_FLUSH = 3
export const NBD_CMD_TRIM = 4
export const NBD_CMD_CACHE = 5
export const NBD_CMD_WRITE_ZEROES = 6
export const NBD_CMD_BLOCK_STATUS = 7

export const NBD_CMD_FLAG_FUA = 1 << 0
export const NBD_CMD_FLAG_NO_HOLE = 1 << 1
export const NBD_CMD_FLAG_DF = 1 << 2
export const NBD_CMD_FLAG_REQ_ONE = 1 << 3
export const NBD_CMD_FLAG_FAST_ZERO = 1 << 4

// ---- structured replies ---------------------------------------------------------------------------------------------

export const NBD_REPLY_FLAG_DONE = 1 << 0

export const NBD_REPLY_TYPE_NONE = 0
export const NBD_REPLY_TYPE_OFFSET_DATA = 1
export const NBD_REPLY_TYPE_OFFSET_HOLE = 2
export const NBD_REPLY_TYPE_BLOCK_STATUS = 5
export const NBD_REPLY_TYPE_FLAG_ERROR = 1 << 15
export const NBD_REPLY_TYPE_ERROR = NBD_REPLY_TYPE_FLAG_ERROR | 1
export const NBD_REPLY_TYPE_ERROR_OFFSET = NBD_REPLY_TYPE_FLAG_ERROR | 2

// ---- metadata context base:allocation -------------------------------------------------------------------------------

export const NBD_CONTEXT_BASE_ALLOCATION = 'base:allocation'
export const NBD_STATE_HOLE = 1 << 0
export const NBD_STATE_ZERO = 1 << 1

// ---- error values ---------------------------------------------------------------------------------------------------

export const NBD_SUCCESS = 0
export const NBD_EPERM = 1
export const NBD_EIO = 5
export const NBD_ENOMEM = 12
export const NBD_EINVAL = 22
export const NBD_ENOSPC = 28
export const NBD_EOVERFLOW = 75
export const NBD_ENOTSUP = 95
export const NBD_ESHUTDOWN = 108

/** Names and other strings of the protocol are at most this long (section "Values", strings). */
export const NBD_STRING_BYTES_MAX = 4096

const ERROR_NAMES: ReadonlyMap<number, string> = new Map([
  [NBD_EPERM, 'EPERM'],
  [NBD_EIO, 'EIO'],
  [NBD_ENOMEM, 'ENOMEM'],
  [NBD_EINVAL, 'EINVAL'],
  [NBD_ENOSPC, 'ENOSPC'],
  [NBD_EOVERFLOW, 'EOVERFLOW'],
  [NBD_ENOTSUP, 'ENOTSUP'],
  [NBD_ESHUTDOWN, 'ESHUTDOWN'],
])

/** A value that the specification does not name counts as EINVAL (section "Error values"). */
export const nbdErrorName = (error: number): string => ERROR_NAMES.get(error) ?? 'EINVAL'
