// What a server must check about a request before it does anything, as a table and one function.
// Source: doc/proto.md, sections "Request types", "Command flags", "Error values" and "Block size constraints".
//
//   command       flags besides FUA          beyond the end   on a read-only export   longer than the largest block
//   READ          DF if structured replies   EINVAL           -                       EINVAL, with DF EOVERFLOW
//   WRITE                                    ENOSPC           EPERM                   EINVAL
//   FLUSH                                    (offset and length must be 0)
//   TRIM                                     EINVAL           EPERM                   served in pieces
//   CACHE                                    EINVAL           -                       EINVAL
//   WRITE_ZEROES  NO_HOLE, FAST_ZERO         ENOSPC           EPERM                   served in pieces
//   BLOCK_STATUS  REQ_ONE                    EINVAL           -                       allowed
//
// FUA is accepted with every command, as the specification demands. The specification lets a server refuse long
// WRITE_ZEROES; Linux' nbd driver sends them whatever the largest block is, so they are served.

import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
} from '../wire/nbd/constants.ts'
import type { RequestHeader } from '../wire/nbd/transmission.ts'
import type { Agreement } from './negotiation.ts'

export interface RequestFault {
  /** NBD_E* */
  readonly error: number
  /** For the client's log. */
  readonly text: string
}

interface CommandRule {
  readonly flags: number
  readonly changesData: boolean
  readonly limited: boolean
  readonly beyondEnd: RequestFault
}

const fault = (error: number, text: string): RequestFault => ({ error, text })

const UNKNOWN_COMMAND = fault(NBD_EINVAL, 'unknown command')
const UNKNOWN_FLAG = fault(NBD_EINVAL, 'a flag that this command does not have')
const NO_STRUCTURED_REPLIES = fault(NBD_EINVAL, 'DF needs structured replies')
const READ_ONLY = fault(NBD_EPERM, 'the export is read-only')
const UNALIGNED = fault(NBD_EINVAL, 'offset and length must be multiples of the smallest block size')
const TOO_LONG = fault(NBD_EINVAL, 'longer than the largest block size')
const TOO_LONG_FOR_DF = fault(NBD_EOVERFLOW, 'too long to be sent unfragmented')
const READ_BEYOND_END = fault(NBD_EINVAL, 'beyond the end of the export')
const WRITE_BEYOND_END = fault(NBD_ENOSPC, 'beyond the end of the export')
const FLUSH_WITH_RANGE = fault(NBD_EINVAL, 'FLUSH has no offset and no length')
const NOT_FAST = fault(NBD_ENOTSUP, 'zeroes without a hole are written out: not faster than a write')
const NO_CONTEXT = fault(NBD_EINVAL, 'no metadata context was selected for this export')
const EMPTY_STATUS = fault(NBD_EINVAL, 'BLOCK_STATUS of nothing')

const rule = (flags: number, changesData: boolean, limited: boolean, beyondEnd: RequestFault): CommandRule => ({
  flags: flags | NBD_CMD_FLAG_FUA,
  changesData,
  limited,
  beyondEnd,
})

/** By command number. FLUSH and DISC have no range and stand elsewhere. */
const RULES: readonly (CommandRule | undefined)[] = (() => {
  const rules: (CommandRule | undefined)[] = []
  rules[NBD_CMD_READ] = rule(NBD_CMD_FLAG_DF, false, true, READ_BEYOND_END)
  rules[NBD_CMD_WRITE] = rule(0, true, true, WRITE_BEYOND_END)
  rules[NBD_CMD_TRIM] = rule(0, true, false, READ_BEYOND_END)
  rules[NBD_CMD_CACHE] = rule(0, false, true, READ_BEYOND_END)
  rules[NBD_CMD_WRITE_ZEROES] = rule(NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, false, WRITE_BEYOND_END)
  rules[NBD_CMD_BLOCK_STATUS] = rule(NBD_CMD_FLAG_REQ_ONE, false, false, READ_BEYOND_END)
  return rules
})()

/** Why a request (anything but DISC) is refused; undefined if it is to be served. */
export function checkRequest(request: Readonly<RequestHeader>, agreement: Agreement): RequestFault | undefined {
  if (request.type === NBD_CMD_FLUSH) return checkFlush(request)
  const command = RULES[request.type]
  if (command === undefined) return UNKNOWN_COMMAND
  if ((request.flags & ~command.flags) !== 0) return UNKNOWN_FLAG
  const { blockSize, sizeBytes } = agreement.export
  if (command.changesData && agreement.export.readOnly) return READ_ONLY
  if (request.offsetBytes % blockSize.minimum !== 0 || request.lengthBytes % blockSize.minimum !== 0) return UNALIGNED
  if (command.limited && request.lengthBytes > blockSize.maximum) {
    return (request.flags & NBD_CMD_FLAG_DF) !== 0 ? TOO_LONG_FOR_DF : TOO_LONG
  }
  if (request.offsetBytes > sizeBytes || request.lengthBytes > sizeBytes - request.offsetBytes) return command.beyondEnd
  return checkSpecial(request, agreement)
}

function checkFlush(request: Readonly<RequestHeader>): RequestFault | undefined {
  if ((request.flags & ~NBD_CMD_FLAG_FUA) !== 0) return UNKNOWN_FLAG
  if (request.offsetBytes !== 0 || request.lengthBytes !== 0) return FLUSH_WITH_RANGE
  return undefined
}

function checkSpecial(request: Readonly<RequestHeader>, agreement: Agreement): RequestFault | undefined {
  switch (request.type) {
    case NBD_CMD_READ:
      if ((request.flags & NBD_CMD_FLAG_DF) !== 0 && !agreement.structuredReplies) return NO_STRUCTURED_REPLIES
      return undefined
    case NBD_CMD_WRITE_ZEROES:
      // Punching a hole touches metadata only. Without a hole the zeroes have to be written.
      if ((request.flags & NBD_CMD_FLAG_FAST_ZERO) !== 0 && (request.flags & NBD_CMD_FLAG_NO_HOLE) !== 0)
        return NOT_FAST
      return undefined
    case NBD_CMD_BLOCK_STATUS:
      if (!agreement.allocationContext) return NO_CONTEXT
      if (request.lengthBytes === 0) return EMPTY_STATUS
      return undefined
    default:
      return undefined
  }
}
